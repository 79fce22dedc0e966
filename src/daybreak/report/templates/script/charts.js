(() => {
  // Charts: show the values under the pointer, or step through them with the arrow keys.
  for (const chart of document.querySelectorAll("svg.chart")) {
    const { x, lines } = JSON.parse(chart.dataset.chart);
    const longest = lines.reduce((a, b) => (b.points.length > a.points.length ? b : a), { points: [] }).points;
    if (!longest.length) continue;
    const reading = make("p", { class: "reading", role: "status" });
    chart.after(reading);
    const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
    cursor.setAttribute("class", "cursor");
    let at = -1;
    const show = (n) => {
      at = Math.max(0, Math.min(longest.length - 1, n));
      const [px, , label] = longest[at];
      cursor.setAttribute("x1", px); cursor.setAttribute("x2", px);
      cursor.setAttribute("y1", 14); cursor.setAttribute("y2", 210);
      chart.append(cursor);
      const near = (points) => points.reduce((a, b) => (Math.abs(b[0] - px) < Math.abs(a[0] - px) ? b : a));
      reading.textContent = `${x} ${label}: ` + lines.map((line) => `${line.name} ${near(line.points)[3]}`).join(", ");
    };
    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect();
      const px = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
      show(longest.reduce((a, point, n) => (Math.abs(point[0] - px) < Math.abs(longest[a][0] - px) ? n : a), 0));
    });
    chart.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) { show(at < 0 ? 0 : at + step); event.preventDefault(); }
    });
  }
})();
