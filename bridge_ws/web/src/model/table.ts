/** A host's process table, kept current sample by sample, with rates over the newest interval. Pure. */

import type { ProcesosSample, Process } from "./wire";

export interface Row {
  id: string;
  process: Process;
  /** Share of one CPU, and bytes a second, over the interval of sample `seq`; null: nobody can know yet. */
  cpu: number | null;
  read: number | null;
  written: number | null;
  seq: number;
}

export class Table {
  readonly rows = new Map<string, Row>();
  stream = "";
  seq = -1;
  /** Who used the most CPU in the newest interval; null while nobody can know. */
  busiest: { command: string; cpu: number } | null = null;
  private at = 0;

  /** Take a sample (`whole`: a snapshot) of a stream in. Returns whether it was news. */
  take(stream: string, sample: ProcesosSample, whole: boolean): boolean {
    const same = stream === this.stream;
    if (same ? sample.seq < this.seq || (sample.seq === this.seq && !whole) : sample.sampled_at < this.at) return false;
    if (!same) this.rows.clear();
    const seconds = same && sample.seq > this.seq ? (sample.sampled_at - this.at) / 1000 : 0;
    // A sample's deltas are since the sample before it; over a hole, or in a snapshot, totals are compared instead.
    const follows = same && !whole && sample.seq === this.seq + 1;
    const gone = whole || sample.keyframe ? new Set(this.rows.keys()) : new Set<string>();
    for (const process of sample.processes) {
      const id = `${process.pid}.${process.start_ticks}`;
      const known = this.rows.get(id);
      gone.delete(id);
      this.rows.set(id, row(id, process, known, sample.seq, seconds, follows));
    }
    for (const id of gone) this.rows.delete(id);
    for (const process of sample.exited) this.rows.delete(`${process.pid}.${process.start_ticks}`);
    this.stream = stream;
    this.seq = sample.seq;
    this.at = sample.sampled_at;
    this.busiest = busiest(this);
    return true;
  }

  /** What a row says of the newest interval: a process that is not in the newest sample did nothing. */
  current(entry: Row, rate: "cpu" | "read" | "written"): number | null {
    return entry.seq === this.seq ? entry[rate] : entry[rate] === null && rate !== "cpu" ? null : 0;
  }
}

function busiest(table: Table): Table["busiest"] {
  let most: Row | null = null;
  for (const each of table.rows.values()) {
    if (each.seq === table.seq && each.cpu !== null && each.cpu > (most?.cpu ?? 0)) most = each;
  }
  return most === null ? null : { command: most.process.command, cpu: most.cpu ?? 0 };
}

function row(id: string, process: Process, known: Row | undefined, seq: number, seconds: number, follows: boolean): Row {
  if (seconds <= 0) {
    const rates = known !== undefined && known.seq === seq ? known : { cpu: null, read: null, written: null };
    return { id, process, seq, cpu: rates.cpu, read: rates.read, written: rates.written };
  }
  const before = known?.process;
  const used = follows ? process.cpu_delta_ns : before === undefined ? null : process.cpu_ns - before.cpu_ns;
  return {
    id,
    process,
    seq,
    cpu: used === null ? null : Math.max(0, used) / 1e9 / seconds,
    read: rate(process.read_bytes, before?.read_bytes, seconds),
    written: rate(process.written_bytes, before?.written_bytes, seconds),
  };
}

function rate(now: number | null, before: number | null | undefined, seconds: number): number | null {
  if (now === null || before === null) return null;
  return before === undefined ? null : Math.max(0, now - before) / seconds;
}

// --- the view of it: filter, order, tree ---

export const COLUMNS = ["pid", "command", "cpu", "memory", "read", "written", "state", "threads", "uid", "time", "cgroup"] as const;
export type Column = (typeof COLUMNS)[number];
export const TEXT: ReadonlySet<Column> = new Set(["command", "state", "cgroup"]);

export interface Shown {
  row: Row;
  depth: number;
  /** How many children it has in the tree. */
  children: number;
}

export interface Order {
  column: Column;
  descending: boolean;
}

export function value(table: Table, entry: Row, column: Column): number | string {
  const { process } = entry;
  switch (column) {
    case "pid": return process.pid;
    case "command": return process.command;
    case "cpu": return table.current(entry, "cpu") ?? -1;
    case "memory": return process.rss_bytes;
    case "read": return table.current(entry, "read") ?? -1;
    case "written": return table.current(entry, "written") ?? -1;
    case "state": return process.state;
    case "threads": return process.threads;
    case "uid": return process.uid;
    case "time": return process.cpu_ns;
    case "cgroup": return process.cgroup ?? "";
  }
}

export function matches(entry: Row, words: readonly string[]): boolean {
  if (words.length === 0) return true;
  const { process } = entry;
  const text = `${process.pid} ${process.command} ${process.cgroup ?? ""} uid:${process.uid} state:${process.state}`.toLowerCase();
  return words.every((word) => text.includes(word));
}

/** The rows to show: those that match every word of `filter`, in order; as a tree, with the ancestors of what matches. */
export function shown(table: Table, filter: string, order: Order, tree: boolean, folded: ReadonlySet<string>): Shown[] {
  const words = filter.toLowerCase().split(/\s+/).filter((word) => word !== "");
  const rows = [...table.rows.values()];
  const sort = sorter(table, order);
  if (!tree) {
    return rows.filter((entry) => matches(entry, words)).sort(sort).map((entry) => ({ row: entry, depth: 0, children: 0 }));
  }
  const byPid = new Map(rows.map((entry) => [entry.process.pid, entry]));
  const wanted = new Set<Row>();
  for (const entry of rows) {
    if (!matches(entry, words)) continue;
    let ancestor: Row | undefined = entry;
    while (ancestor !== undefined && !wanted.has(ancestor)) {
      wanted.add(ancestor);
      ancestor = byPid.get(ancestor.process.ppid);
    }
  }
  const children = new Map<Row | undefined, Row[]>();
  for (const entry of wanted) {
    const parent = byPid.get(entry.process.ppid);
    const under = parent === entry ? undefined : parent;
    const siblings = children.get(under);
    if (siblings === undefined) children.set(under, [entry]);
    else siblings.push(entry);
  }
  const result: Shown[] = [];
  const stack: { row: Row; depth: number }[] = [];
  const push = (parent: Row | undefined, depth: number): number => {
    const siblings = (children.get(parent) ?? []).sort(sort);
    for (let index = siblings.length - 1; index >= 0; index -= 1) stack.push({ row: siblings[index]!, depth });
    return siblings.length;
  };
  push(undefined, 0);
  for (let top = stack.pop(); top !== undefined; top = stack.pop()) {
    const count = folded.has(top.row.id) ? (children.get(top.row)?.length ?? 0) : push(top.row, top.depth + 1);
    result.push({ row: top.row, depth: top.depth, children: count });
  }
  return result;
}

function sorter(table: Table, order: Order): (a: Row, b: Row) => number {
  const direction = order.descending ? -1 : 1;
  return (a, b) => {
    const left = value(table, a, order.column);
    const right = value(table, b, order.column);
    if (left !== right) return left < right ? -direction : direction;
    return b.process.cpu_ns - a.process.cpu_ns || a.process.pid - b.process.pid;
  };
}
