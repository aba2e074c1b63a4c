/** What a host's figures mean, in one word and its reasons. The thresholds are for a glance, not for a pager. */

import type { Host } from "./fleet";

export type Level = "ok" | "busy" | "critical" | "silent";

export interface Health {
  level: Level;
  word: string;
  reasons: string[];
}

const WORDS: Record<Level, string> = { ok: "OK", busy: "Busy", critical: "Critical", silent: "Silent" };
export const SEVERITY: Record<Level, number> = { silent: 3, critical: 2, busy: 1, ok: 0 };
const LEAST_SILENCE_MS = 15_000;

/** `now` is this browser's clock; silence is counted from when a sample arrived, so that clocks need not agree. */
export function health(host: Host, now: number): Health {
  const age = now - host.heardAt;
  if (host.heardAt > 0 && age > Math.max(LEAST_SILENCE_MS, 4 * host.cpu.interval())) {
    return { level: "silent", word: WORDS.silent, reasons: [`no sample for ${span(age)}`] };
  }
  const critical: string[] = [];
  const busy: string[] = [];
  const say = (amount: number, warn: number, alarm: number, text: string): void => {
    if (amount >= alarm) critical.push(text);
    else if (amount >= warn) busy.push(text);
  };
  const { shares, memory } = host;
  if (shares !== null) {
    say(shares.busy, 0.9, Infinity, `CPU ${whole(shares.busy)} %`);
    say(shares.iowait, 0.2, 0.5, `I/O wait ${whole(shares.iowait)} %`);
    say(shares.steal, 0.1, 0.3, `steal ${whole(shares.steal)} %`);
  }
  if (memory !== null) say(memory, 0.9, 0.97, `memory ${whole(memory)} %`);
  const states = host.states.newest?.counts;
  if (states !== undefined) {
    say(states.disk_sleep, 8, 64, `${states.disk_sleep} in disk sleep`);
    say(states.zombie, 20, Infinity, `${states.zombie} zombies`);
  }
  const level: Level = critical.length > 0 ? "critical" : busy.length > 0 ? "busy" : "ok";
  return { level, word: WORDS[level], reasons: [...critical, ...busy] };
}

const whole = (share: number): string => (share * 100).toFixed(0);

export function span(milliseconds: number): string {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 90) return `${seconds} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}
