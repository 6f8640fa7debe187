# A newcomer needs make, git and Python 3.10 or newer with venv; everything else goes into .venv.
#   make demo       every stage on a few small pictures
#   make test       the test suite
#   make test-full  also the slow tests: networks of release size, a 4.5 GB release (10 GB of disk, 12 GB of memory)
#   make bench      speed and memory as ratios: networks, first picture (10 GB of disk), LMDBs written and read,
#                   experts trained, pictures restored
#   make lint       ruff
# Another Python: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Whatever environment is active in the calling shell must not leak into ours.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME

# BasicSR's setup.py needs an exec() that fills locals(), as it did before Python 3.13. On a newer Python this line, run
# at the start of every interpreter while BasicSR is built, restores that; it is removed afterwards.
MEND := import builtins, sys; builtins.exec = (lambda run: lambda code, *spaces, **more: run(code, *(spaces or \
(sys._getframe(1).f_globals, sys._getframe(1).f_locals)), **more))(builtins.exec)

.PHONY: demo test test-full bench lint venv clean

demo: venv
	$(BIN)/unirestorer demo

test: venv
	$(BIN)/python -m pytest

test-full: venv
	$(BIN)/python -m pytest -m 'not gpu and not network'

bench: venv
	$(BIN)/python -m tests.benchmarks.networks
	$(BIN)/python -m tests.benchmarks.first_picture
	$(BIN)/python -m tests.benchmarks.lmdb_writing
	$(BIN)/python -m tests.benchmarks.reading
	$(BIN)/python -m tests.benchmarks.training
	$(BIN)/python -m tests.benchmarks.restoring

lint: venv
	$(BIN)/ruff check .

venv: $(VENV)/.stamp

# One pip call for everything: torch, torchvision and BasicSR must be resolved together to match.
$(VENV)/.stamp: setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo 'Python 3.10 or newer is needed: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	@site=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
		if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then \
			trap 'rm -f "$$site/mend_basicsr_build.pth"' EXIT; echo '$(MEND)' > "$$site/mend_basicsr_build.pth"; \
		fi; \
		echo "$(BIN)/python -m pip install -e '.[dev]'"; $(BIN)/python -m pip install -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
