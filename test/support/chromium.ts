/** A headless Chromium driven over its DevTools protocol through a pipe: no port, no WebSocket, no package. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable, Writable } from "node:stream";

/** The browser's path: PARTITA_CHROMIUM, or where distributions put it. */
export function chromiumPath(): string | undefined {
  const known = [process.env["PARTITA_CHROMIUM"], "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
  return known.find((path) => path !== undefined && existsSync(path));
}

type Message = {
  id?: number;
  method?: string;
  params?: Record<string, unknown>;
  result?: unknown;
  error?: { message: string };
  sessionId?: string;
};

export class Page {
  readonly #child: ChildProcess;
  readonly #write: Writable;
  readonly #profile: string;
  readonly #waiting = new Map<number, { resolve: (r: unknown) => void; reject: (e: Error) => void }>();
  #next = 1;
  #session: string | undefined;
  /** Console errors, uncaught exceptions and failed requests, in order. */
  readonly complaints: string[] = [];

  private constructor(path: string, width: number, height: number) {
    this.#profile = mkdtempSync(join(tmpdir(), "partita-chromium-"));
    this.#child = spawn(
      path,
      [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-extensions",
        "--no-first-run",
        "--mute-audio",
        "--hide-scrollbars",
        "--force-device-scale-factor=1",
        `--window-size=${width},${height}`,
        `--user-data-dir=${this.#profile}`,
        "--remote-debugging-pipe",
        "about:blank",
      ],
      { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] },
    );
    this.#write = this.#child.stdio[3] as Writable;
    let rest = Buffer.alloc(0);
    const chunks: Buffer[] = [];
    (this.#child.stdio[4] as Readable).on("data", (chunk: Buffer) => {
      if (!chunk.includes(0)) {
        chunks.push(chunk);
        return;
      }
      rest = Buffer.concat([...chunks.splice(0), chunk]);
      for (let at = rest.indexOf(0); at >= 0; at = rest.indexOf(0)) {
        this.#receive(JSON.parse(rest.subarray(0, at).toString("utf8")) as Message);
        rest = rest.subarray(at + 1);
      }
      if (rest.length > 0) chunks.push(rest);
    });
    this.#child.on("exit", (code) => {
      for (const w of this.#waiting.values()) w.reject(new Error(`the browser ended with ${code}`));
      this.#waiting.clear();
    });
  }

  static async open(path: string, width = 1400, height = 1000): Promise<Page> {
    const page = new Page(path, width, height);
    const targets = (await page.send("Target.getTargets")) as { targetInfos: { targetId: string; type: string }[] };
    const target = targets.targetInfos.find((t) => t.type === "page");
    const { sessionId } = (await page.send("Target.attachToTarget", { targetId: target?.targetId, flatten: true })) as {
      sessionId: string;
    };
    page.#session = sessionId;
    for (const domain of ["Page", "Runtime", "Log", "Network"]) await page.send(`${domain}.enable`);
    return page;
  }

  #receive(m: Message): void {
    if (m.id !== undefined) {
      const waiting = this.#waiting.get(m.id);
      this.#waiting.delete(m.id);
      if (m.error === undefined) waiting?.resolve(m.result);
      else waiting?.reject(new Error(m.error.message));
    } else if (m.method === "Runtime.exceptionThrown") this.complaints.push(JSON.stringify(m.params?.["exceptionDetails"]));
    else if (m.method === "Runtime.consoleAPICalled" && m.params?.["type"] === "error")
      this.complaints.push(JSON.stringify(m.params["args"]));
    else if (m.method === "Log.entryAdded") {
      const entry = (m.params?.["entry"] ?? {}) as { level: string; text: string; url?: string };
      if (entry.level === "error") this.complaints.push(`${entry.text} ${entry.url ?? ""}`);
    } else if (m.method === "Network.requestWillBeSent") {
      const { url } = (m.params?.["request"] ?? { url: "" }) as { url: string };
      if (!url.startsWith("file:") && !url.startsWith("data:") && !url.startsWith("about:")) this.complaints.push(`request to ${url}`);
    }
  }

  send(method: string, params: Record<string, unknown> = {}): Promise<unknown> {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#write.write(
        `${JSON.stringify({ id, method, params, ...(this.#session === undefined ? {} : { sessionId: this.#session }) })}\0`,
      );
    });
  }
  /** Opens a page and waits until its script says that it is ready. */
  async visit(url: string): Promise<void> {
    await this.send("Page.navigate", { url });
    await this.until("document.documentElement.dataset.ready === 'yes'");
  }
  /** The value of an expression, awaited if it is a promise. */
  async value<T>(expression: string): Promise<T> {
    const r = (await this.send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true })) as {
      result: { value: T };
      exceptionDetails?: { exception?: { description?: string }; text: string };
    };
    if (r.exceptionDetails !== undefined) throw new Error(r.exceptionDetails.exception?.description ?? r.exceptionDetails.text);
    return r.result.value;
  }
  async until(condition: string, ms = 20_000): Promise<void> {
    const end = Date.now() + ms;
    while (!(await this.value<boolean>(`Boolean(${condition})`).catch(() => false))) {
      if (Date.now() > end) throw new Error(`waited ${ms} ms for ${condition}`);
      await new Promise((r) => setTimeout(r, 20));
    }
  }
  async type(text: string): Promise<void> {
    for (const char of text) await this.send("Input.dispatchKeyEvent", { type: "char", text: char });
  }
  async press(key: string): Promise<void> {
    const text = key.length === 1 ? { text: key } : key === "Enter" ? { text: "\r" } : {};
    await this.send("Input.dispatchKeyEvent", { type: "keyDown", key, ...text });
    await this.send("Input.dispatchKeyEvent", { type: "keyUp", key });
  }
  async click(x: number, y: number): Promise<void> {
    for (const type of ["mousePressed", "mouseReleased"])
      await this.send("Input.dispatchMouseEvent", { type, x, y, button: "left", clickCount: 1 });
  }
  async wheel(x: number, y: number, deltaY: number): Promise<void> {
    await this.send("Input.dispatchMouseEvent", { type: "mouseWheel", x, y, deltaX: 0, deltaY });
  }
  /** A PNG of the window at three quarters of its size. */
  async screenshot(): Promise<Uint8Array> {
    const { width, height } = await this.value<{ width: number; height: number }>("({ width: innerWidth, height: innerHeight })");
    const clip = { x: 0, y: 0, width, height, scale: 0.75 };
    const { data } = (await this.send("Page.captureScreenshot", { format: "png", clip })) as { data: string };
    return Buffer.from(data, "base64");
  }
  async close(): Promise<void> {
    const ended = new Promise((r) => this.#child.once("exit", r));
    await this.send("Browser.close").catch(() => {});
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), 3000);
    await ended;
    clearTimeout(timer);
    rmSync(this.#profile, { recursive: true, force: true });
  }
}
