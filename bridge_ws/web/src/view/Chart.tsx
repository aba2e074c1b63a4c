/** A uPlot chart of the last ten minutes. All charts of a page share the cursor. Its words are beside it, for everyone. */

import { useEffect, useRef, useState } from "react";
import uPlot from "uplot";
import { WINDOW_MS } from "../model/history";
import { useColours } from "./hooks";

export interface Line {
  label: string;
  /** The name of a colour in style.css. */
  colour: string;
  show: (value: number) => string;
}

interface Props {
  title: string;
  lines: readonly Line[];
  /** x in seconds, then a column for each line. */
  data: (number | null)[][];
  stacked?: boolean;
  /** The top of the scale; the largest value decides where it is absent. */
  top?: number;
  tick: (value: number) => string;
  /** Steps between ticks are powers of two, as people count bytes. */
  binary?: boolean;
}

const BINARY = Array.from({ length: 50 }, (_, power) => 2 ** power);

const HEIGHT = 132;
const CURSOR = "latido";

export function Chart({ title, lines, data, stacked = false, top, tick, binary = false }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const [hovered, setHovered] = useState<number | null>(null);
  const colours = useColours();
  const current = useRef({ data, stacked, top, tick });
  current.current = { data, stacked, top, tick };

  useEffect(() => {
    const node = place.current;
    if (node === null || colours === "") return undefined;
    const style = getComputedStyle(node);
    const colour = (name: string): string => style.getPropertyValue(`--${name}`).trim();
    const axis: uPlot.Axis = {
      stroke: colour("soft"), font: "11px system-ui, sans-serif", grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false },
    };
    const made = new uPlot(
      {
        width: node.clientWidth, height: HEIGHT, pxAlign: false, legend: { show: false }, padding: [6, 4, 0, 0],
        cursor: { sync: { key: CURSOR }, y: false, points: { show: false }, drag: { x: false, y: false } },
        scales: {
          x: { time: true, range: (_, __, end) => [end - WINDOW_MS / 1000, end] },
          y: { range: (_, __, end) => [0, current.current.top ?? Math.max(1, end * 1.1)] },
        },
        axes: [
          { ...axis, space: 70, size: 22, gap: 2, values: (_, values) => values.map((at) => label(at)) },
          { ...axis, size: 52, gap: 4, space: 30, ...(binary ? { incrs: BINARY } : {}), values: (_, values) => values.map((each) => current.current.tick(each)) },
        ],
        series: [
          {},
          ...(stacked ? [...lines].reverse() : lines).map((line): uPlot.Series => ({
            label: line.label, stroke: colour(line.colour), width: stacked ? 0.75 : 1.5, points: { show: false }, spanGaps: false,
            ...(stacked ? { fill: colour(line.colour) } : { fill: `${colour(line.colour)}22` }),
          })),
        ],
        hooks: { setCursor: [(self) => setHovered(self.cursor.idx ?? null)] },
      },
      arranged(current.current.data, stacked) as uPlot.AlignedData,
      node,
    );
    plot.current = made;
    const observer = new ResizeObserver(() => made.setSize({ width: node.clientWidth, height: HEIGHT }));
    observer.observe(node);
    return () => {
      observer.disconnect();
      made.destroy();
      plot.current = null;
    };
    // the lines of a chart never change
  }, [colours, stacked]);

  useEffect(() => {
    plot.current?.setData(arranged(data, stacked) as uPlot.AlignedData);
  }, [data, stacked]);

  const at = hovered !== null && hovered < data[0]!.length ? hovered : data[0]!.length - 1;
  const said = lines.map((line, index) => {
    const value = data[index + 1]?.[at];
    return { ...line, text: value === null || value === undefined ? "–" : line.show(value) };
  });
  const newest = data[0]!.length - 1;
  const summary = lines.map((line, index) => {
    const value = data[index + 1]?.[newest];
    return `${line.label} ${value === null || value === undefined ? "unknown" : line.show(value)}`;
  });
  return (
    <figure className="chart">
      <figcaption>
        <h2>{title}</h2>
        <ul className="legend" aria-hidden="true">
          {said.map((line) => (
            <li key={line.label}><i className={`swatch ${line.colour}`} />{line.label} <b>{line.text}</b></li>
          ))}
        </ul>
      </figcaption>
      <div ref={place} className="plot" role="img" aria-label={`${title} over the last 10 minutes; now ${summary.join(", ")}`} />
    </figure>
  );
}

const label = (seconds: number): string =>
  new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });

/** Of stacked lines each is drawn up to the sum of itself and those before it, the highest first. */
function arranged(data: (number | null)[][], stacked: boolean): (number | null)[][] {
  if (!stacked) return data;
  const [x, ...columns] = data;
  const sums: (number | null)[][] = [];
  let below: (number | null)[] | null = null;
  for (const column of columns) {
    const last: (number | null)[] | null = below;
    below = column.map((value, index) => (value === null ? null : value + (last?.[index] ?? 0)));
    sums.push(below);
  }
  return [x!, ...sums.reverse()];
}
