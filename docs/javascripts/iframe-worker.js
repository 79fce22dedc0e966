/* Search in a page that was opened from a file. Browsers allow no workers there, so that the theme's search runs in a
   hidden frame instead; on a server this does nothing. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.appendChild(this.frame);
      this.frame.worker = this;
      this.ready = new Promise((done) => { this.loaded = done; });
      const inside = this.frame.contentDocument;
      inside.open();
      inside.write(`<body><script>
        const host = frameElement.worker;
        postMessage = (data) => host.dispatchEvent(new MessageEvent("message", { data }));
        importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise((done) => {
          const script = document.createElement("script");
          script.src = url;
          script.onload = done;
          document.body.appendChild(script);
        })), Promise.resolve());
      <\/script><script src="${url}" onload="frameElement.worker.loaded()"><\/script>`);
      inside.close();
    }

    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
