(() => {
  const at = (id) => document.getElementById(id);
  const [drop, file, target, against, status, result] = ["drop", "file", "class", "against", "status", "result"].map(at);
  const maxBytes = Number(drop.dataset.maxBytes);
  let shown = null; // of those that have been asked about: {image, found, message, class, against}
  let asking = new AbortController(); // of the maps for another class: only the latest counts

  const likeliest = ({ top: [first] }) => `${first.class}, ${percent(first.probability)}`;
  const inWords = (found) => (found.unknown ? `unknown (closest: ${likeliest(found)})` : likeliest(found));

  const bar = (share) => {
    const bar = make("span", { class: "bar", "aria-hidden": "true" }, make("i"));
    bar.firstChild.style.width = `${100 * share}%`;
    return bar;
  };

  const show = (item) => {
    shown = item;
    const { found, message } = item;
    if (target) [target.value, against.value] = [item.class ?? "", item.against ?? ""];
    status.textContent = `${item.image.name || "image"}: ${found ? inWords(found) : message}`;
    status.className = found ? "" : "wrong";
    result.hidden = !found;
    for (const button of at("asked").querySelectorAll("button")) {
      if (button.item === item) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    if (!found) return;
    const [first] = found.top;
    at("seen").src = found.image;
    at("said").textContent = found.unknown ? "unknown" : first.class;
    at("how").textContent = found.unknown ? `closest: ${likeliest(found)}` : `${percent(first.probability)} likely`;
    at("top").tBodies[0].replaceChildren(...found.top.map((row) => make("tr", {},
      make("th", { scope: "row" }, row.class),
      make("td", { class: "n" }, percent(row.probability)),
      make("td", {}, bar(row.probability)))));
    at("maps")?.replaceChildren(...found.maps.map((map) => make("li", {}, make("figure", {},
      ...(map.picture ? [make("img", { src: map.picture, alt: `Map at ${map.layer} for ${map.class}` })] : []),
      make("figcaption", {}, `${map.layer}, for ${map.class}${map.note ? `: ${map.note}` : ""}`)))));
  };

  const list = (item) => {
    const name = item.image.name || "image";
    const button = make("button", { type: "button", title: name },
      ...(item.found ? [make("img", { class: "pixels", src: item.found.image, alt: "" })] : []),
      make("span", {}, make("b", { class: item.found ? "" : "wrong" }, item.found ? inWords(item.found) : "no answer"), make("span", { class: "soft" }, short(name, 32))));
    button.item = item;
    button.addEventListener("click", () => { show(item); result.scrollIntoView({ block: "nearest" }); });
    at("asked").prepend(make("li", {}, button));
    at("history").hidden = false;
  };

  const answer = async (image, classes, signal) => {
    try {
      if (image.size > maxBytes) throw new Error(`more than ${maxBytes / 2 ** 20} MiB; try: a smaller copy of it`);
      const query = new URLSearchParams({ explain: true, ...classes });
      const send = () => fetch(`predict?${query}`, { method: "POST", body: image, signal });
      let response = await send();
      for (let tries = 0; response.status === 503 && tries < 5; tries += 1) { // others are before us
        await new Promise((resolve) => setTimeout(resolve, 1000));
        response = await send();
      }
      if (response.headers.get("content-type") !== "application/json") throw new Error(await response.text());
      const found = await response.json();
      return response.ok ? { found } : { message: found.message };
    } catch (error) {
      return { message: error instanceof TypeError ? "no answer: is daybreak still running?" : error.message };
    }
  };

  const say = (text, isWrong = false) => {
    status.className = isWrong ? "wrong" : "";
    status.textContent = text;
  };

  // One after the other, also where several are given while others are asked about; the first of those that are given
  // together is shown as soon as it is there.
  let queue = Promise.resolve();
  const take = (images) => {
    const given = [...images];
    queue = queue.then(() => askAll(given));
  };
  const askAll = async (images) => {
    let failed = 0;
    for (const [n, image] of images.entries()) {
      say(images.length > 1 ? `Classifying ${n + 1} of ${images.length} …` : "Classifying …");
      const item = { image, ...(await answer(image, {})) };
      failed += item.found ? 0 : 1;
      list(item);
      if (n === 0) show(item);
    }
    if (images.length > 1) say(`${images.length - failed} of ${images.length} images classified.`, failed > 0);
  };

  const explainAnew = async () => {
    if (!shown) return;
    asking.abort();
    asking = new AbortController();
    const { signal } = asking;
    const item = shown;
    const classes = { class: target.value, against: against.value };
    say("Drawing maps …");
    const anew = await answer(item.image, classes, signal);
    if (signal.aborted || shown !== item) return;
    if (anew.found) show(Object.assign(item, anew, classes));
    else {
      show(item);
      say(anew.message, true);
    }
  };

  const pixels = (uri) => Uint8Array.from(atob(uri.slice(uri.indexOf(",") + 1)), (c) => c.charCodeAt(0));
  const showExamples = async () => {
    const response = await fetch("examples");
    const { examples } = response.ok ? await response.json() : { examples: [] };
    at("examples").replaceChildren(...examples.map((example) => {
      const button = make("button", { type: "button" }, make("img", { class: "pixels", src: example.picture, alt: `Example: ${example.class}` }));
      button.addEventListener("click", () => take([new File([pixels(example.picture)], `${example.class}.png`, { type: "image/png" })]));
      return make("li", {}, button);
    }));
    at("try").hidden = !examples.length;
  };

  // Camera: only where the browser has one to give, which is this machine or an encrypted connection.
  const video = at("video");
  const stop = () => {
    for (const track of video.srcObject?.getTracks() ?? []) track.stop();
    video.srcObject = null;
    at("viewfinder").hidden = true;
    at("camera").focus();
  };
  const start = async () => {
    if (video.srcObject) return;
    try {
      at("shoot").disabled = true;
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      at("viewfinder").hidden = false;
      at("close").focus();
    } catch (error) {
      say(`The camera cannot be used: ${error.message}`, true);
    }
  };
  const shoot = () => {
    const canvas = make("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => take([new File([blob], "camera.png", { type: "image/png" })]));
  };
  video.addEventListener("playing", () => { at("shoot").disabled = false; });
  at("camera").hidden = !navigator.mediaDevices?.getUserMedia;
  for (const [id, act] of [["camera", start], ["shoot", shoot], ["close", stop]]) at(id).addEventListener("click", act);

  file.addEventListener("change", () => {
    take(file.files);
    file.value = ""; // so that the same can be chosen again
  });
  for (const select of [target, against]) select?.addEventListener("change", explainAnew);
  drop.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("paste", (event) => take(event.clipboardData.files));
  addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  addEventListener("dragleave", () => drop.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take(event.dataTransfer.files);
  });
  if (at("try")) showExamples().catch(() => {});
})();
