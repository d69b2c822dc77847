"""A headless Chromium over the DevTools protocol: pages at a size and in a colour scheme."""

import asyncio
import base64
import json
import re
import shutil
import subprocess

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROBE = """(async () => {
  await Promise.all([...document.images].map(image => image.decode().catch(() => {})));
  const width = document.documentElement.clientWidth;
  const style = element => getComputedStyle(element);
  const all = selector => [...document.querySelectorAll(selector)];
  const box = element => {
    element.scrollLeft = element.scrollWidth;
    const [whole, first] = [element, element.querySelector('th')].map(
      e => e.getBoundingClientRect());
    const scrolled = element.scrollLeft > 0;
    element.scrollLeft = 0;
    return {scrolls: scrolled, prose: element.classList.contains('prose'),
      right: whole.right, top: whole.top + scrollY, width: whole.width,
      first: {left: first.left - whole.left, width: first.width}};
  };
  all('details').forEach(e => { e.open = true; });  // what is folded is to be read, too
  const inside = element => element.closest('.wide') === null;
  return {
    width, scrollWidth: document.documentElement.scrollWidth,
    dark: matchMedia('(prefers-color-scheme: dark)').matches,
    images: document.images.length,
    missing: [...document.images].filter(i => !i.complete || !i.naturalWidth).length,
    outside: [...document.querySelectorAll('main *')].filter(inside)
      .filter(e => e.getBoundingClientRect().right > width + 0.5)
      .filter(e => !(e instanceof SVGElement) || e.tagName === 'svg').map(e => e.outerHTML
        .slice(0, 80)),
    ground: style(document.body).backgroundColor,
    ink: style(document.body).color,
    black: all('svg :is(path, text, use)').filter(e => !e.closest('defs'))
      .filter(e => style(e).fill === 'rgb(0, 0, 0)').map(e => e.outerHTML.slice(0, 80)),
    filters: [...new Set(all('.panels svg image, .legend i').map(e => style(e).filter))],
    boxes: all('.wide').filter(e => e.getBoundingClientRect().width).map(box),
    text: document.body.innerText,
  };
})()"""


def executable() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One Chromium for many pages.

    Use as a context manager: ``with Browser(profile) as browser: browser.look(path, 390)``.
    """

    def __init__(self, profile):
        self.profile = profile

    def __enter__(self):
        self.loop = asyncio.new_event_loop()
        self.process = subprocess.Popen(
            [
                executable(),
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--disable-dev-shm-usage",
                "--remote-debugging-port=0",
                f"--user-data-dir={self.profile}",
                "about:blank",
            ],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for line in self.process.stderr:
            found = re.search(r"DevTools listening on (ws://\S+)", line)
            if found:
                self.address = found[1]
                return self
        raise RuntimeError("Chromium ended before it listened.")

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait(30)
        self.process.stderr.close()
        self.loop.close()

    def look(self, path, width, *, dark=False, height=900, picture=None):
        """What ``PROBE`` finds on a page, and ``errors``: what went to the console.

        Args:
          path: a local file.
          width: of the window, CSS pixels.
          picture: a file for a screenshot of the whole page.
        """
        return self.loop.run_until_complete(self._look(path, width, dark, height, picture))

    async def _look(self, path, width, dark, height, picture):
        from tornado.websocket import websocket_connect

        socket = await websocket_connect(self.address, max_message_size=2**28)
        page = _Page(socket)
        target = await page.call("Target.createTarget", url="about:blank")
        attached = await page.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        page.session = attached["sessionId"]
        for domain in "Page", "Log", "Runtime":
            await page.call(f"{domain}.enable")
        await page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if width < 600 else 1,
            mobile=width < 600,
        )
        await page.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        await page.call("Page.navigate", url=path.resolve().as_uri())
        await page.until("Page.loadEventFired")
        found = await page.call(
            "Runtime.evaluate", expression=PROBE, awaitPromise=True, returnByValue=True
        )
        if picture:
            shot = await page.call("Page.captureScreenshot", captureBeyondViewport=True)
            picture.write_bytes(base64.b64decode(shot["data"]))
        await page.call("Target.closeTarget", targetId=target["targetId"])
        socket.close()
        return found["result"]["value"] | {"errors": page.errors}


class _Page:
    """Calls and events of one target."""

    def __init__(self, socket):
        self.socket, self.session, self.number = socket, None, 0
        self.events, self.errors = [], []

    async def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        await self.socket.write_message(json.dumps(message))
        while True:
            answer = await self._read()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    async def until(self, event):
        while event not in self.events:
            await self._read()

    async def _read(self):
        text = await asyncio.wait_for(self.socket.read_message(), 60)
        message = json.loads(text)
        self.events.append(message.get("method"))
        if message.get("method") in (
            "Log.entryAdded",
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
        ):
            self.errors.append(message["params"])
        return message
