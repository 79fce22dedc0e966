// The images of the page and their maps, drawn on canvases from the sheet once it is decoded.
const pictures = (() => {
  const data = JSON.parse(document.getElementById("images-data").textContent);
  const loaded = (source) => new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve(image);
    if (source) image.src = source;
  });
  const cut = (from, n, side, columns, size, label) => {
    const canvas = make("canvas", { class: side > 48 ? "pixels photo" : "pixels", width: size, height: size, role: "img", "aria-label": label });
    const drawn = from.then((sheet) => {
      const pen = canvas.getContext("2d");
      pen.imageSmoothingEnabled = side > 48;
      pen.drawImage(sheet, (n % columns) * side, Math.floor(n / columns) * side, side, side, 0, 0, size, size);
      return pen;
    });
    return { canvas, drawn };
  };

  const ready = loaded(data.sheet);
  const picture = (item, size, label, after = () => {}) => {
    const { canvas, drawn } = cut(ready, data.items.indexOf(item), data.side, data.columns, size, label);
    drawn.then(after);
    return canvas;
  };

  const cellsOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stageCells = (item, which) => {
    const all = cellsOf(item.maps[which]);
    let at = 0;
    return data.stages.map(({ side }) => all.subarray(at, (at += side * side)));
  };
  const heat = (pen, cells, side, size) => {
    const small = make("canvas", { width: side, height: side });
    const pixels = new ImageData(side, side);
    cells.forEach((level, n) => {
      const colour = data.heat[Math.floor((level * (data.heat.length - 1)) / 255)];
      pixels.data.set([...colour, Math.round(0.75 * level)], 4 * n);
    });
    small.getContext("2d").putImageData(pixels, 0, 0);
    pen.imageSmoothingEnabled = true;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(small, 0, 0, size, size);
  };
  const frame = (pen, [left, top, right, bottom], size) => {
    const scale = size / data.net_size;
    pen.strokeStyle = "#40e0ff";
    pen.lineWidth = 3;
    pen.strokeRect(left * scale + 1, top * scale + 1, (right - left) * scale - 2, (bottom - top) * scale - 2);
  };

  const SIZE = 168;
  const isEmpty = (cells) => Math.max(...cells) === 0;
  const mapOf = (item, which, s, k, kind, style) => {
    const { name, side } = data.stages[s], cells = stageCells(item, which)[s];
    const drawn = isEmpty(cells)
      ? make("span", { class: "none" }, "no evidence")
      : picture(item, SIZE, `map for ${data.classes[k]} at ${name}`, (pen) => heat(pen, cells, side, SIZE));
    return make("figure", {}, drawn, make("figcaption", {}, `${kind}: `, named(data.classes[k], 10, style)));
  };
  const stage = (item, s) => {
    const { name, words, method } = data.stages[s];
    const box = isEmpty(stageCells(item, 0)[s]) ? () => {} : (pen) => frame(pen, item.boxes[s], SIZE);
    const original = picture(item, SIZE, `receptive field of the maximum at ${name}`, box);
    return make("section", {}, make("h3", {}, `${name}, ${method} `, make("span", { class: "soft" }, words)),
      make("div", { class: "trio" }, make("figure", {}, original, make("figcaption", {}, "original")),
        mapOf(item, 0, s, item.top[0][0], "predicted", item.top[0][0] === item.true ? "right" : "wrong"),
        mapOf(item, 1, s, item.true, "true", "right")));
  };
  const mapsOf = (item) => make("div", { class: "stages" }, ...data.stages.map((_, s) => stage(item, s)));
  return { data, loaded, cut, picture, mapsOf };
})();
