// The numbers of refused, taken, edited and untouched records on the mending page.

import { html, svg } from "../vendor/lit-html/lit-html.js"
import * as format from "../format.js"

/**
 * The numbers of the bar. None is negative, and they add up to `refused`. A loaded record was still refused when it was read,
 * after the family. An edited record that is not loaded counts only if there are others that are not loaded.
 *
 * @param page the mending page: `job`, `repairs`, `known`, `unseen()`, `edits`
 */
export function numbers(page) {
  const { job, repairs, known, edits } = page
  if (!job) return { refused: 0, taken: 0, edited: 0, out: 0, untouched: 0, isRetried: false }
  // the retry of an import has its unprocessed records too
  const isRetried = repairs.some(({ relation, parent_id }) => relation === "retry" && parent_id === job.id)
  const refused = Math.max(job.counts.failed + (isRetried ? job.counts.unprocessed : 0), known.size)
  const accepted = repairs.reduce(
    (sum, { counts }) => sum + counts.created + counts.updated + counts.unchanged + counts.skipped,
    0,
  )
  const taken = Math.min(accepted, refused - known.size)
  const found = { edited: 0, out: 0 }
  const count = (record) => {
    const state = edits.stateOf(record)
    if (state) found[state] += 1
    return state ? 1 : 0
  }
  for (const record of known.values()) count(record)
  let others = refused - taken - known.size
  for (const record of page.unseen()) {
    if (!others) break
    others -= count(record)
  }
  return { refused, taken, ...found, untouched: refused - taken - found.edited - found.out, isRetried }
}

const PARTS = [
  ["taken", "taken", "created"],
  ["edited", "edited", "updated"],
  ["out", "left out", "skipped"],
  ["untouched", "untouched", "refused"],
]

/** The numbers of refused, accepted, edited and untouched records, as a bar and as text. */
export function bar(counts) {
  let x = 0
  const parts = PARTS.filter(([name]) => counts[name] > 0).map(([name, , css]) => {
    const width = Math.max((1000 * counts[name]) / counts.refused, 3)
    const part = svg`<rect class="fate ${css}" x=${x} y="0" width=${width} height="10"></rect>`
    x += width
    return part
  })
  return html`<svg class="fates tall" viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true">${parts}</svg>
    <ul class="legend">
      <li><b>${format.number(counts.refused)}</b> refused${counts.isRetried ? " or not processed" : ""}</li>
      ${PARTS.filter(([name]) => name !== "out" || counts.out).map(
        ([name, label, css]) =>
          html`<li><span class="swatch ${css}" aria-hidden="true"></span><b>${format.number(counts[name])}</b> ${label}</li>`,
      )}
    </ul>`
}
