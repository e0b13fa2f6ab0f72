// The distribution of refused records over the file, as a strip from the first to the last record.

import { html, nothing, svg } from "./vendor/lit-html/lit-html.js"
import * as format from "./format.js"

const HEIGHT = 56

/**
 * Darkness is the share of refused records, hatched parts are not done. A click on a part calls `choose(first_record)`.
 * `refused` counts all refused records of the import; null while it runs.
 * @param {{first_record: number, records: number, failed: number, state: string}[]} bins of the API's timeline
 * @param {{total: number, refused: number | null, chosen: number | null, choose: (record: number) => void}} options
 */
export function fileMap(bins, { total, refused, chosen, choose }) {
  const withRefused = bins.filter(({ failed }) => failed)
  const left = bins.filter(({ state }) => state !== "done").reduce((sum, { records }) => sum + records, 0)
  // records with the same key are refused at the end of the import, and are not counted in any part of the file
  const elsewhere = (refused ?? 0) - withRefused.reduce((sum, { failed }) => sum + failed, 0)
  const summary =
    `The file from record 1 to ${format.number(total)}: ` +
    `refused records in ${format.count(withRefused.length, "part")} of ${bins.length}` +
    (left ? `, ${format.count(left, "record")} in parts that are not done.` : ".")
  return html`<figure class="filemap">
    <svg class="strip-map" height=${HEIGHT} role="img" aria-label=${summary}>
      <defs>
        <pattern id="not-done" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
          <rect width="6" height="6" class="hatch-ground"></rect>
          <line x1="0" y1="0" x2="0" y2="6" class="hatch-line"></line>
        </pattern>
      </defs>
      ${bins.map((bin) => part(bin, total, chosen, choose))}
    </svg>
    <div class="strip-ends muted small" aria-hidden="true"><span>record 1</span><span>${format.number(total)}</span></div>
    <figcaption>
      <ul class="legend small">
        <li><span class="swatch none" aria-hidden="true"></span>None refused</li>
        ${
          withRefused.length
            ? html`<li>
                <span class="swatch some" aria-hidden="true"></span><span class="swatch all" aria-hidden="true"></span>Few to all
                refused
              </li>`
            : nothing
        }
        ${left ? html`<li><span class="swatch hatched" aria-hidden="true"></span>Not done</li>` : nothing}
      </ul>
      ${
        elsewhere > 0
          ? html`<p class="muted small">
              ${format.count(elsewhere, "refused record")}
              ${elsewhere === 1 ? "shares a key with another record" : "share keys with other records"} of the file: decided at
              the end, so not on the map.
            </p>`
          : nothing
      }
      ${withRefused.length ? table(withRefused, choose) : nothing}
    </figcaption>
  </figure>`
}

function part(bin, total, chosen, choose) {
  const x = `${(100 * (bin.first_record - 1)) / total}%`
  const width = `${(100 * bin.records) / total}%`
  const isDone = bin.state === "done"
  const title = `Records ${range(bin)}: ${format.number(bin.failed)} refused${isDone ? "" : `, ${STATES[bin.state]}`}`
  const ground = isDone
    ? svg`<rect class="done" x=${x} width=${width} y="0" height=${HEIGHT}></rect>`
    : svg`<rect fill="url(#not-done)" x=${x} width=${width} y="0" height=${HEIGHT}></rect>`
  // the square root, so that one of a hundred is visible
  const share = 0.2 + 0.8 * Math.sqrt(bin.failed / bin.records)
  const cover = svg`<rect class="refused" x=${x} width=${width} y="0" height=${HEIGHT} fill-opacity=${share.toFixed(2)}></rect>`
  return svg`<g class=${bin.failed ? "part clickable" : "part"} @click=${bin.failed ? () => choose(bin.first_record) : nothing}>
    <title>${title}</title>
    ${ground} ${bin.failed ? cover : nothing}
    ${chosen === bin.first_record ? svg`<rect class="chosen" x=${x} width=${width} y="1" height=${HEIGHT - 2}></rect>` : nothing}
  </g>`
}

const STATES = { pending: "waiting", running: "being worked on", failed: "could not be processed", cancelled: "cancelled" }

function range({ first_record: first, records }) {
  return `${format.number(first)} to ${format.number(first + records - 1)}`
}

function table(bins, choose) {
  return html`<details class="as-table">
    <summary>As a table</summary>
    <div class="scroll" tabindex="0" role="group" aria-label="Refused records by part of the file">
      <table class="figures">
        <caption class="offscreen">
          Refused records by part of the file
        </caption>
        <thead>
          <tr>
            <th scope="col">Records</th>
            <th scope="col" class="number">Refused</th>
            <th scope="col" class="number">Share</th>
            <th scope="col"><span class="offscreen">Show</span></th>
          </tr>
        </thead>
        <tbody>
          ${bins.map(
            (bin) =>
              html`<tr>
                <th scope="row">${range(bin)}</th>
                <td class="number">${format.number(bin.failed)}</td>
                <td class="number">${format.percent(bin.failed, bin.records)}</td>
                <td class="number">
                  <button type="button" class="link" @click=${() => choose(bin.first_record)}>
                    Show errors<span class="offscreen"> from record ${format.number(bin.first_record)} on</span>
                  </button>
                </td>
              </tr>`,
          )}
        </tbody>
      </table>
    </div>
  </details>`
}
