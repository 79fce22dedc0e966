// What does not fit on a page, as a list of words: see page_checks.py.
() => {
  const faults = [], width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) faults.push(`the page is ${document.documentElement.scrollWidth} px wide`);
  const isHidden = (element) => element.closest(".unseen, script, style, title, option") || !element.checkVisibility({ visibilityProperty: true });
  const told = (element) => `<${element.tagName.toLowerCase()} class="${element.getAttribute("class") ?? ""}"> ${element.textContent.trim().slice(0, 40)}`;

  // The first frame around the box that cuts it off without saying so.
  const cutBy = (start, box) => {
    for (let frame = start; frame && frame !== document.documentElement; frame = frame.parentElement) {
      const style = getComputedStyle(frame), edge = frame.getBoundingClientRect();
      if (style.overflowX === "visible" || frame === document.body) continue;
      const isRegion = frame.matches(".scroll"), more = isRegion ? frame.parentElement.dataset.more : "";
      if (box.right > edge.right + 1) return more.includes("right") ? null : frame;
      if (box.bottom > edge.bottom + 1 && !frame.matches("dialog")) return more.includes("down") ? null : frame;
      if (box.left < edge.left - 1) return frame;
    }
    return box.right > width + 1 || box.left < -1 ? document.body : null;
  };

  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode, element = node.parentElement;
    if (!node.data.trim() || isHidden(element)) continue;
    const isVertical = getComputedStyle(element).writingMode !== "horizontal-tb", range = document.createRange();
    for (const word of node.data.matchAll(/[^\s\u2026\u2010\/–-]+/g)) {
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const boxes = [...range.getClientRects()].filter((box) => box.width && box.height);
      const [first] = boxes, across = isVertical ? "left" : "top";
      if (boxes.some((box) => Math.abs(box[across] - first[across]) > first.height / 2 && !element.closest("svg")))
        faults.push(`in pieces: ${word[0]} in ${told(element)}`);
      const cut = first && cutBy(element, range.getBoundingClientRect());
      if (cut) faults.push(`cut: ${word[0]} in ${told(element)} by ${told(cut)}`);
    }
  }
  for (const element of document.querySelectorAll("img, canvas, svg, button, input, select, video")) {
    if (isHidden(element)) continue;
    const box = element.getBoundingClientRect(), cut = box.width ? cutBy(element.parentElement, box) : null;
    if (cut) faults.push(`cut: ${told(element)} by ${told(cut)}`);
  }
  return faults;
}
