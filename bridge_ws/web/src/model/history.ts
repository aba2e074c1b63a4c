/** The last minutes of one feed of one host: points in the order of time, each once, however they arrive. */

export const WINDOW_MS = 600_000;
const SLACK_MS = 15_000;

export interface Point {
  stream: string;
  seq: number;
  at: number;
}

export class History<P extends Point> {
  private points: P[] = [];

  /** Take a point in, at its place. A point that is there already changes nothing. */
  add(point: P): void {
    const { points } = this;
    let place = points.length;
    while (place > 0 && after(points[place - 1]!, point)) place -= 1;
    const before = points[place - 1];
    if (before !== undefined && before.stream === point.stream && before.seq === point.seq) return;
    points.splice(place, 0, point);
    const newest = points[points.length - 1]!.at;
    let old = 0;
    while (points[old]!.at < newest - WINDOW_MS - SLACK_MS) old += 1;
    if (old > 0) points.splice(0, old);
  }

  all(): readonly P[] {
    return this.points;
  }

  get newest(): P | undefined {
    return this.points[this.points.length - 1];
  }

  /** The usual time between two points, in ms: the median over the newest. 0 while nobody can know. */
  interval(): number {
    const last = this.points.slice(-12);
    const steps = last.slice(1).map((point, index) => point.at - last[index]!.at).sort((a, b) => a - b);
    return steps[Math.floor(steps.length / 2)] ?? 0;
  }
}

function after(a: Point, b: Point): boolean {
  return a.at > b.at || (a.at === b.at && a.stream === b.stream && a.seq > b.seq);
}

/** Columns for a chart, with a row of nulls wherever points are missing, so that no line spans what nobody saw. */
export function columns<P extends Point>(
  history: History<P>,
  width: number,
  values: (point: P, before: P | undefined) => (number | null)[],
): (number | null)[][] {
  const result: (number | null)[][] = Array.from({ length: width + 1 }, () => []);
  const longest = Math.max(3_000, history.interval() * 2.5);
  let before: P | undefined;
  for (const point of history.all()) {
    if (before !== undefined && point.at - before.at > longest) {
      result[0]!.push((before.at + 1) / 1000);
      for (let column = 1; column <= width; column += 1) result[column]!.push(null);
    }
    result[0]!.push(point.at / 1000);
    values(point, before).forEach((value, column) => result[column + 1]!.push(value));
    before = point;
  }
  return result;
}
