// Search on pages that are opened as files. Browsers start no Worker there, so this class runs
// Material's search script in a hidden frame; the script knows the name IFrameWorker.
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    #scope;
    #loaded;

    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.#scope = frame.contentWindow;
      this.#scope.postMessage = data => this.dispatchEvent(new MessageEvent("message", {data}));
      const script = frame.contentDocument.createElement("script");
      script.src = new URL(url, location);
      this.#loaded = new Promise(resolve => { script.onload = resolve; });
      frame.contentDocument.body.append(script);
    }

    postMessage(data) {
      const event = new this.#scope.MessageEvent("message", {data});
      this.#loaded.then(() => this.#scope.dispatchEvent(event));
    }
  };
}
