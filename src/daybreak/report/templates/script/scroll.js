// Regions that are wider or higher than their frame say on which sides they go on.
const watchScroll = (frame) => {
  const region = frame.firstElementChild;
  const look = () => {
    const more = [];
    if (region.scrollWidth - region.clientWidth - region.scrollLeft > 1) more.push("right");
    if (region.scrollHeight - region.clientHeight - region.scrollTop > 1) more.push("down");
    frame.dataset.more = more.join(" ");
  };
  region.addEventListener("scroll", look, { passive: true });
  new ResizeObserver(look).observe(region);
  look();
};
document.querySelectorAll(".scroller").forEach(watchScroll);
