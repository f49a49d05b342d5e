// The frames of an explorer are fetched when the reader comes within a screen's height of it. Its controls are there
// before, so that nothing jumps; one that was moved meanwhile counts as soon as the frames have come. Where they do not
// come, as in a page that was saved alone, there is nothing to move and the controls go.
document.addEventListener("DOMContentLoaded", () => {
  const near = new IntersectionObserver(entries => {
    for (const {isIntersecting, target} of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      const script = document.createElement("script");
      const panel = target.firstElementChild;
      script.src = target.dataset.frames;
      script.onerror = () => { panel.style.display = "none"; };
      script.onload = () => {
        if (panel.dataset.moved !== undefined) panel.oninput();
      };
      document.head.append(script);
    }
  }, {rootMargin: "100% 0px"});
  for (const box of document.querySelectorAll("[data-frames]")) {
    const panel = box.firstElementChild;
    panel.style.display = "";
    panel.addEventListener("input", () => { panel.dataset.moved = ""; }, {once: true});
    near.observe(box);
  }
});
