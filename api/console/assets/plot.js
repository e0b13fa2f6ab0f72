// The throughput of an import as an SVG plot: records and refused records per second, from the start to now.

import { html, nothing, svg } from "./vendor/lit-html/lit-html.js"
import * as format from "./format.js"

const WIDTHS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400]
const STRETCHES_MAX = 60
const HEIGHT = 140

/**
 * The records finished in an interval: `start` and `width` in seconds, from the start of the import; rates per second.
 * @typedef {{start: number, width: number, rate: number, refused: number}} Stretch
 */

/**
 * Intervals of one round length, so that only the end of the plot of a running import changes. Chunks finish in steps: an
 * interval is long enough for several of them. The last one is omitted until it is over.
 * @param {{at: string, seconds: number, records: number, failed: number}[]} bins of the API's timeline
 * @param {{bins: number, startedAt: string, isFinal: boolean}} known how many bins were asked for
 * @returns {Stretch[]}
 */
export function stretches(bins, { bins: asked, startedAt, isFinal }) {
  if (bins.length < 3 || !(bins[0].seconds > 0)) return []
  const span = bins[0].seconds * asked
  const least = Math.max(span / STRETCHES_MAX, 3 * usualGap(bins))
  const width = WIDTHS.find((seconds) => seconds >= least) ?? least
  const count = Math.ceil(span / width - 1e-6)
  const sums = Array.from({ length: count }, () => ({ records: 0, failed: 0 }))
  for (const bin of bins) {
    const from = format.secondsBetween(startedAt, bin.at)
    // a bin may overlap two intervals: each gets its share
    for (let n = Math.max(0, Math.floor(from / width)); n < count && n * width < from + bin.seconds; n += 1) {
      const shared = Math.min((n + 1) * width, from + bin.seconds) - Math.max(n * width, from)
      const share = Math.max(0, shared) / bin.seconds
      sums[n].records += bin.records * share
      sums[n].failed += bin.failed * share
    }
  }
  const found = sums.map(({ records, failed }, n) => {
    const length = Math.min(width, span - n * width)
    return { start: n * width, width: length, rate: records / length, refused: failed / length }
  })
  const isLastWhole = found.at(-1).width > 0.99 * width
  if (isFinal || isLastWhole) return found
  return found.slice(0, -1)
}

/** The median of the seconds between consecutive bins with finished records. */
function usualGap(bins) {
  const gaps = bins.slice(1).map((bin, n) => format.secondsBetween(bins[n].at, bin.at))
  return gaps.sort((a, b) => a - b)[Math.floor(gaps.length / 2)] ?? Infinity
}

/** The plot with its axes, a legend, and the same as a table. */
export function plot(shown) {
  const end = shown.at(-1).start + shown.at(-1).width
  const highest = Math.max(...shown.map(({ rate }) => rate))
  const highestRefused = Math.max(...shown.map(({ refused }) => refused))
  const top = roundUp(highest)
  const hasRefused = highestRefused > 0
  const summary =
    `Records per second over ${format.duration(end)}: at most ${format.number(Math.round(highest))}, ` +
    (hasRefused ? `of them refused at most ${format.number(Math.round(highestRefused))}.` : "none refused.")
  return html`<figure class="plot">
    <svg class="plot-area" height=${HEIGHT + 26} role="img" aria-label=${summary}>
      ${[0, 0.5, 1].map((part) => {
        const y = 6 + (HEIGHT - 6) * (1 - part)
        return svg`<line class="grid" x1="0" x2="100%" y1=${y} y2=${y}></line>
          <text class="y" x="-8" y=${y + 4}>${format.short(top * part)}</text>`
      })}
      ${ticks(end).map((seconds) => {
        const place = seconds === 0 ? "x first" : seconds > 0.9 * end ? "x last" : "x"
        return svg`<text class=${place} x=${percent(seconds, end)} y=${HEIGHT + 20}>${format.duration(seconds)}</text>`
      })}
      <svg x="0" y="6" width="100%" height=${HEIGHT - 6} viewBox=${`0 0 1000 ${HEIGHT - 6}`} preserveAspectRatio="none">
        <path class="area" d=${`M0,${HEIGHT - 6} L${line(shown, end, top, "rate")} L1000,${HEIGHT - 6} Z`}></path>
        <path class="rate" d=${`M${line(shown, end, top, "rate")}`}></path>
        ${hasRefused ? svg`<path class="refused-rate" d=${`M${line(shown, end, top, "refused")}`}></path>` : nothing}
      </svg>
      ${shown.map(
        (each) =>
          svg`<rect class="probe" x=${percent(each.start, end)} width=${percent(each.width, end)} y="0" height=${HEIGHT}>
            <title>${sentence(each)}</title>
          </rect>`,
      )}
    </svg>
    <figcaption>
      ${
        hasRefused
          ? html`<ul class="legend small">
              <li><span class="line" aria-hidden="true"></span>All records</li>
              <li><span class="line refused" aria-hidden="true"></span>Refused</li>
            </ul>`
          : nothing
      }
      <details class="as-table">
        <summary>As a table</summary>
        <div class="scroll" tabindex="0" role="group" aria-label="Records per second over time">${table(shown)}</div>
      </details>
    </figcaption>
  </figure>`
}

const percent = (part, whole) => `${(100 * part) / whole}%`

function line(shown, end, top, name) {
  const points = shown.map((each) => [each.start + each.width / 2, each[name]])
  const whole = [[0, points[0][1]], ...points, [end, points.at(-1)[1]]]
  const height = HEIGHT - 6
  return whole.map(([x, y]) => `${((1000 * x) / end).toFixed(1)},${(height - (height * y) / top).toFixed(1)}`).join(" L")
}

function table(shown) {
  return html`<table class="figures">
    <caption class="offscreen">
      Records per second over time
    </caption>
    <thead>
      <tr>
        <th scope="col">From</th>
        <th scope="col" class="number">Records/s</th>
        <th scope="col" class="number">Refused/s</th>
      </tr>
    </thead>
    <tbody>
      ${shown.map(
        ({ start, rate, refused }) =>
          html`<tr>
            <th scope="row">${format.duration(start)}</th>
            <td class="number">${format.number(Math.round(rate))}</td>
            <td class="number">${format.number(Math.round(refused))}</td>
          </tr>`,
      )}
    </tbody>
  </table>`
}

function sentence({ start, width, rate, refused }) {
  const when = `${format.duration(start)} to ${format.duration(start + width)}`
  const records = `${format.number(Math.round(rate))} records/s`
  return refused > 0 ? `${when}: ${records}, ${format.number(Math.round(refused))} refused/s` : `${when}: ${records}`
}

/** Three to six round times, the first of them 0. */
function ticks(end) {
  const step = WIDTHS.find((seconds) => end / seconds <= 5) ?? end / 5
  return Array.from({ length: Math.floor(end / step + 1e-6) + 1 }, (_, n) => n * step)
}

/** The next round number, half of which is round too. */
function roundUp(value) {
  if (!(value > 0)) return 1
  const power = 10 ** Math.floor(Math.log10(value))
  return [1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10].find((factor) => factor * power >= value) * power
}
