/** Numbers as people read them. */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(value: number): string {
  let amount = value;
  let unit = 0;
  while (amount >= 999.5 && unit < UNITS.length - 1) {
    amount /= 1024;
    unit += 1;
  }
  return `${amount.toFixed(unit === 0 || amount >= 99.95 ? 0 : 1)} ${UNITS[unit]}`;
}

export const rate = (value: number | null): string =>
  value === null ? "–" : value < 1 ? "0" : `${bytes(value)}/s`;

export const percent = (share: number | null | undefined, digits = 1): string =>
  share === null || share === undefined ? "–" : `${(share * 100).toFixed(digits)} %`;

export function cpuTime(nanoseconds: number): string {
  const seconds = nanoseconds / 1e9;
  if (seconds < 60) return `${seconds.toFixed(2)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ${String(Math.floor(seconds % 60)).padStart(2, "0")}s`;
  return `${Math.floor(seconds / 3600)}h ${String(Math.floor((seconds % 3600) / 60)).padStart(2, "0")}m`;
}

export const clock = (milliseconds: number): string =>
  new Date(milliseconds).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

export const moment = (milliseconds: number): string => new Date(milliseconds).toLocaleString([], { hour12: false });

/** Kernel state letters (proc_pid_stat(5)) in words. */
export const STATE_WORDS: Record<string, string> = {
  R: "running", S: "sleeping", D: "disk sleep", T: "stopped", t: "traced", Z: "zombie", X: "dead", I: "idle", P: "parked",
};

/**
 * A process may call itself anything: what would break a line, hide, or turn the text around is shown as an escape, and
 * so is a backslash, as `latido top` and `latido history` do.
 */
export const printable = (text: string): string =>
  text.replace(/[\\\p{C}\p{Zl}\p{Zp}]/gu, (letter) => {
    const code = letter.codePointAt(0)!;
    if (letter === "\\") return "\\\\";
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
  });
