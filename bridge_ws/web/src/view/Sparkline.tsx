/** A host's CPU over the last minutes as one small shape; the words beside it say what it shows. */

import { shares, type Host } from "../model/fleet";
import { WINDOW_MS } from "../model/history";

const WIDTH = 120;
const HEIGHT = 28;

export function Sparkline({ host }: { host: Host }) {
  const points = host.cpu.all();
  const newest = points[points.length - 1]?.at ?? 0;
  const longest = Math.max(3_000, host.cpu.interval() * 2.5);
  let line = "";
  let start = "";
  let last = "";
  let area = "";
  const close = (): void => {
    if (start !== "") area += `M${start},${HEIGHT}L${line}L${last},${HEIGHT}Z`;
    line = start = last = "";
  };
  let stroke = "";
  for (let index = 1; index < points.length; index += 1) {
    const point = points[index]!;
    const before = points[index - 1]!;
    const now = point.at - before.at <= longest ? shares(point, before) : null;
    if (now === null) {
      close();
      continue;
    }
    const x = (WIDTH * (1 - (newest - point.at) / WINDOW_MS)).toFixed(1);
    const y = (HEIGHT - 1 - now.busy * (HEIGHT - 2)).toFixed(1);
    stroke += `${start === "" ? "M" : "L"}${x},${y}`;
    line += `${start === "" ? "" : "L"}${x},${y}`;
    if (start === "") start = x;
    last = x;
  }
  close();
  return (
    <svg className="spark" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">
      <path className="spark-area" d={area} />
      <path className="spark-line" d={stroke} />
    </svg>
  );
}
