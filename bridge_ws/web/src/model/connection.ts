/** The WebSocket to the bridge: connects, connects again with the resume token, asks for what is missing. */

import type { Fleet } from "./fleet";
import type { Feed, Frame } from "./wire";

const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 15_000;
/** A bridge of another version may not know a token: one try in so many leaves it out. */
const WITHOUT_RESUME = 10;
/** Bridges look back for so long; after that a token is of no use. */
const RESUME_MS = 300_000;
/** After which what the bridge was too busy to answer, or could not, is asked for again. */
const AGAIN_MS = 1_000;
const UNAUTHORIZED = 1008; // RFC 6455, section 7.4.1
const FEEDS: readonly Feed[] = ["cpu", "ram", "procesos"];

export type Status =
  | { state: "connecting" }
  /** `back`: when it came again, and after how long. ms */
  | { state: "live"; back?: { at: number; after: number } }
  | { state: "stale"; detail: string }
  | { state: "lost"; detail: string; since: number; retryAt: number }
  | { state: "token"; detail: string };

export class Connection {
  status: Status = { state: "connecting" };
  private socket: WebSocket | null = null;
  private attempt = 0;
  private since = 0;
  private resume: string | null = null;
  private token: string | null = null;
  private timer = 0;
  /** What is still to be asked for, one at a time: the bridge answers no more at once. */
  private wanted: { host: string; feed: Feed }[] = [];
  private asked: { host: string; feed: Feed } | null = null;
  /** Hosts whose last minutes are looked at; asked for again after every reconnect. */
  private watched = new Set<string>();
  private greeted = false;

  constructor(private readonly fleet: Fleet) {
    // The network is there again, or somebody looks again: no need to sit a pause out.
    const now = (): void => {
      if (this.status.state === "lost" && document.visibilityState === "visible") this.connect();
    };
    addEventListener("online", now);
    document.addEventListener("visibilitychange", now);
  }

  readonly connect = (): void => {
    clearTimeout(this.timer);
    if (this.status.state !== "lost") this.set({ state: "connecting" });
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const late = this.since > 0 && Date.now() - this.since > RESUME_MS;
    const resumes = this.resume !== null && !late && (this.attempt + 1) % WITHOUT_RESUME !== 0;
    const resume = resumes ? `?resume=${encodeURIComponent(this.resume!)}` : "";
    const before = this.socket;
    const socket = new WebSocket(`${scheme}://${location.host}/ws${resume}`, ["latido.v1"]);
    this.socket = socket;
    before?.close(); // a try that is still under way
    socket.addEventListener("message", (event) => {
      if (this.socket === socket) this.receive(JSON.parse(event.data as string) as Frame);
    });
    socket.addEventListener("close", (event) => {
      if (this.socket === socket) this.lost(event);
    });
  };

  /** Have the last minutes of a host, now and after every reconnect. */
  watch(host: string, feeds: readonly Feed[] = FEEDS): void {
    this.watched.add(host);
    this.want(host, feeds);
  }

  unwatch(host: string): void {
    this.watched.delete(host);
    this.wanted = this.wanted.filter((each) => each.host !== host);
  }

  /** Ask once, after what is asked for already. */
  want(host: string, feeds: readonly Feed[]): void {
    for (const feed of feeds) {
      if (!this.wanted.some((each) => each.host === host && each.feed === feed)) this.wanted.push({ host, feed });
    }
    this.ask();
  }

  authenticate(token: string): void {
    this.token = token;
    this.set({ state: "connecting" });
    if (this.socket?.readyState === WebSocket.OPEN) this.send({ type: "authenticate", token });
    else this.connect();
  }

  private receive(frame: Frame): void {
    switch (frame.type) {
      case "hello":
        this.hello(frame.hosts, frame.resume);
        break;
      case "snapshot":
      case "sample":
        if (this.status.state === "stale") this.set({ state: "live" });
        this.fleet.host(frame.host).take(frame);
        break;
      case "backfill":
        this.fleet.host(frame.host).fill(frame);
        if (frame.last) {
          this.asked = null;
          this.ask();
        }
        break;
      case "resume":
        this.resume = frame.token;
        return;
      case "gap":
        if (this.watched.has(frame.host)) this.want(frame.host, [frame.feed]);
        break;
      case "error":
        this.error(frame.code, frame.detail);
        break;
    }
    this.fleet.touch();
  }

  private hello(hosts: string[], resume: string | null): void {
    this.attempt = 0;
    this.greeted = true;
    if (resume !== null) this.resume = resume;
    const now = Date.now();
    const back = this.since > 0 ? { back: { at: now, after: now - this.since } } : {};
    this.since = 0;
    this.set({ state: "live", ...back });
    for (const name of hosts) this.fleet.host(name);
    this.asked = null;
    for (const host of this.watched) this.want(host, FEEDS);
    this.ask();
  }

  private error(code: string, detail: string): void {
    if (code === "token-required") {
      if (this.token !== null) this.send({ type: "authenticate", token: this.token });
      else this.set({ state: "token", detail: "This bridge wants a token" });
      return;
    }
    if (code === "database-unavailable") this.set({ state: "stale", detail: "The bridge lost its database and tries again" });
    if (this.asked !== null) {
      const again = this.asked;
      this.asked = null;
      if (code === "malformed") console.warn(`latido: ${detail}`); // not to be asked again
      else setTimeout(() => this.want(again.host, [again.feed]), AGAIN_MS);
    }
  }

  private ask(): void {
    if (!this.greeted || this.asked !== null || this.socket?.readyState !== WebSocket.OPEN) return;
    const next = this.wanted.shift();
    if (next === undefined) return;
    this.asked = next;
    this.send({ type: "backfill", feed: next.feed, host: next.host, minutes: 10 });
  }

  private send(message: object): void {
    this.socket?.send(JSON.stringify(message));
  }

  private lost(event: CloseEvent): void {
    this.socket = null;
    this.greeted = false;
    this.asked = null;
    if (event.code === UNAUTHORIZED && this.token !== null) {
      this.token = null; // it was wrong: not to be sent again
      this.set({ state: "token", detail: "That token was not accepted" });
      return;
    }
    if (this.status.state === "token") return; // the form connects again
    if (this.since === 0) this.since = Date.now();
    const wait = 100 + Math.random() * Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.attempt);
    this.attempt += 1;
    // A bridge says why it closes; that a try after that failed says nothing more.
    const detail = event.reason !== "" || this.status.state !== "lost" ? event.reason : this.status.detail;
    this.set({ state: "lost", detail, since: this.since, retryAt: Date.now() + wait });
    this.timer = window.setTimeout(this.connect, wait);
  }

  private set(status: Status): void {
    this.status = status;
    this.fleet.touch();
  }
}
