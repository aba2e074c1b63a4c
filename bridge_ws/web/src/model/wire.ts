/** The frames of the bridge, as bridge_ws/asyncapi.yaml describes them: the fields that this page reads. */

export type Feed = "ram" | "cpu" | "procesos";

export interface RamSample {
  seq: number;
  sampled_at: number;
  total_bytes: number;
  free_bytes: number;
  available_bytes: number;
  cached_bytes: number;
  buffers_bytes: number;
  swap_total_bytes: number;
  swap_free_bytes: number;
}

export const CPU_MODES = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"] as const;
export type CpuMode = (typeof CPU_MODES)[number];

export type CpuSample = { [mode in CpuMode as `${mode}_ns`]: number } & {
  seq: number;
  sampled_at: number;
  load1_milli: number;
  load5_milli: number;
  load15_milli: number;
  cores: unknown[];
};

export const STATES = [
  "running", "sleeping", "disk_sleep", "stopped", "traced", "zombie", "dead", "idle", "parked", "other",
] as const;
export type State = (typeof STATES)[number];

export interface Process {
  pid: number;
  start_ticks: number;
  started_at: number;
  ppid: number;
  uid: number;
  command: string;
  state: string;
  threads: number;
  cpu_ns: number;
  cpu_delta_ns: number;
  user_ns: number;
  rss_bytes: number;
  virtual_bytes: number;
  minor_faults: number;
  major_faults: number;
  swap_bytes: number | null;
  read_bytes: number | null;
  written_bytes: number | null;
  voluntary_switches: number | null;
  involuntary_switches: number | null;
  cgroup: string | null;
}

export type ProcesosSample = { [state in State]: number } & {
  seq: number;
  sampled_at: number;
  keyframe: boolean;
  total: number;
  threads: number;
  processes: Process[];
  exited: Process[];
};

type OfFeed<Type extends string> =
  | { type: Type; feed: "ram"; host: string; stream: string; late: boolean; sample: RamSample }
  | { type: Type; feed: "cpu"; host: string; stream: string; late: boolean; sample: CpuSample }
  | { type: Type; feed: "procesos"; host: string; stream: string; late: boolean; sample: ProcesosSample };

export type SampleFrame = OfFeed<"sample"> | OfFeed<"snapshot">;

export interface BackfillFrame {
  type: "backfill";
  feed: Feed;
  host: string;
  stream: string | null;
  samples: (RamSample | CpuSample | ProcesosSample)[];
  last: boolean;
}

export type Frame =
  | SampleFrame
  | BackfillFrame
  | { type: "hello"; version: number; server: string; hosts: string[]; resume: string | null }
  | { type: "gap"; feed: Feed; host: string; stream: string; missed: number | null }
  | { type: "resume"; token: string }
  | { type: "error"; code: string; detail: string };
