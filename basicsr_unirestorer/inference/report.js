// Sliders and buttons; everything else of the page works without.
for (const compare of document.querySelectorAll('.compare')) {
  const slider = compare.querySelector('input');
  const show = () => {
    compare.style.setProperty('--pos', slider.value + '%');
    slider.setAttribute('aria-valuetext', slider.value + ' % before');
  };
  slider.addEventListener('input', show);
  show();
  const button = compare.parentElement.querySelector('button');
  if (!button) continue;
  const right = compare.querySelector('.tag.right');
  button.hidden = false;
  button.addEventListener('click', () => {
    const original = compare.classList.toggle('original');
    button.setAttribute('aria-pressed', original);
    right.textContent = original ? 'original' : 'restored';
  });
}
