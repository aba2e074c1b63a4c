/** All that the page knows: every host, its last minutes and its process table. Frames go in, views read it. */

import { History, type Point } from "./history";
import { Table } from "./table";
import {
  CPU_MODES, STATES, type BackfillFrame, type CpuMode, type CpuSample, type ProcesosSample, type RamSample,
  type SampleFrame, type State,
} from "./wire";

export interface CpuPoint extends Point {
  modes: Record<CpuMode, number>;
}
export interface RamPoint extends Point {
  used: number;
  cached: number;
  total: number;
  swapUsed: number;
}
export interface StatesPoint extends Point {
  counts: Record<State, number>;
  total: number;
  threads: number;
}

export interface Shares {
  busy: number;
  user: number;
  system: number;
  irq: number;
  iowait: number;
  steal: number;
}

export class Host {
  readonly cpu = new History<CpuPoint>();
  readonly ram = new History<RamPoint>();
  readonly states = new History<StatesPoint>();
  readonly table = new Table();
  latestCpu: CpuSample | null = null;
  latestRam: RamSample | null = null;
  /** Of the newest interval; null until two samples are known. */
  shares: Shares | null = null;
  /** The part of memory in use; null until known. */
  memory: number | null = null;
  /** When the newest sample was taken by the host's clock, and when it came by this browser's. ms */
  sampledAt = 0;
  heardAt = 0;
  version = 0;

  constructor(readonly name: string) {}

  take(frame: SampleFrame): void {
    this.version += 1;
    const at = frame.sample.sampled_at;
    if (at >= this.sampledAt) {
      this.sampledAt = at;
      // What a snapshot holds may have come long ago.
      this.heardAt = frame.type === "sample" ? Date.now() : Math.max(this.heardAt, Math.min(at, Date.now()));
    }
    const whole = frame.type === "snapshot";
    if (frame.feed === "cpu") this.takeCpu(frame.stream, frame.sample);
    else if (frame.feed === "ram") this.takeRam(frame.stream, frame.sample);
    else {
      this.states.add(statesPoint(frame.stream, frame.sample));
      // A late one changes the table only through the snapshot that follows.
      if (!frame.late) this.table.take(frame.stream, frame.sample, whole);
    }
  }

  fill(frame: BackfillFrame): void {
    this.version += 1;
    const { stream } = frame;
    if (stream === null) return;
    for (const sample of frame.samples) {
      if (frame.feed === "cpu") this.takeCpu(stream, sample as CpuSample);
      else if (frame.feed === "ram") this.takeRam(stream, sample as RamSample);
      else this.states.add(statesPoint(stream, sample as ProcesosSample));
    }
  }

  private takeCpu(stream: string, sample: CpuSample): void {
    this.cpu.add(cpuPoint(stream, sample));
    if (this.latestCpu === null || sample.sampled_at >= this.latestCpu.sampled_at) this.latestCpu = sample;
    const points = this.cpu.all();
    this.shares = shares(points[points.length - 1], points[points.length - 2]);
  }

  private takeRam(stream: string, sample: RamSample): void {
    this.ram.add(ramPoint(stream, sample));
    if (this.latestRam === null || sample.sampled_at >= this.latestRam.sampled_at) this.latestRam = sample;
    const newest = this.ram.newest;
    this.memory = newest !== undefined && newest.total > 0 ? newest.used / newest.total : null;
  }
}

export function shares(after: CpuPoint | undefined, before: CpuPoint | undefined): Shares | null {
  if (after === undefined || before === undefined || after.stream !== before.stream) return null;
  const spent = (mode: CpuMode): number => Math.max(0, after.modes[mode] - before.modes[mode]);
  const total = CPU_MODES.reduce((sum, mode) => sum + spent(mode), 0);
  if (total === 0) return null;
  const idle = spent("idle") + spent("iowait");
  return {
    busy: (total - idle) / total,
    user: (spent("user") + spent("nice")) / total,
    system: spent("system") / total,
    irq: (spent("irq") + spent("softirq")) / total,
    iowait: spent("iowait") / total,
    steal: spent("steal") / total,
  };
}

function cpuPoint(stream: string, sample: CpuSample): CpuPoint {
  const modes = Object.fromEntries(CPU_MODES.map((mode) => [mode, sample[`${mode}_ns`]])) as Record<CpuMode, number>;
  return { stream, seq: sample.seq, at: sample.sampled_at, modes };
}

function ramPoint(stream: string, sample: RamSample): RamPoint {
  return {
    stream,
    seq: sample.seq,
    at: sample.sampled_at,
    used: sample.total_bytes - sample.available_bytes,
    cached: Math.max(0, sample.available_bytes - sample.free_bytes),
    total: sample.total_bytes,
    swapUsed: sample.swap_total_bytes - sample.swap_free_bytes,
  };
}

function statesPoint(stream: string, sample: ProcesosSample): StatesPoint {
  const counts = Object.fromEntries(STATES.map((state) => [state, sample[state]])) as Record<State, number>;
  return { stream, seq: sample.seq, at: sample.sampled_at, counts, total: sample.total, threads: sample.threads };
}

/** Listeners are told at most once a painted frame, however many samples come: a burst costs one rendering. */
export class Fleet {
  readonly hosts = new Map<string, Host>();
  version = 0;
  private readonly listeners = new Set<() => void>();
  private scheduled = false;

  host(name: string): Host {
    let host = this.hosts.get(name);
    if (host === undefined) {
      host = new Host(name);
      this.hosts.set(name, host);
    }
    return host;
  }

  touch(): void {
    this.version += 1;
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      for (const listener of [...this.listeners]) listener();
    });
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };
}
