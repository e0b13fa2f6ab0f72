// The causes of refusal on the mending page: the number of records of each, the one that the grid shows, and the finished ones.

import { repeat } from "../vendor/lit-html/directives/repeat.js"
import { html, nothing } from "../vendor/lit-html/lit-html.js"
import { CAUSES } from "../causes.js"
import * as format from "../format.js"
import { icon } from "../parts.js"
import { isSame } from "./rules.js"

/** @param page the mending page: `job`, `code`, `field`, `rows`, `known`, `isWhole`, `edits`, `filter(code, field)` */
export function causes(page) {
  return html`<nav class="card causes" aria-labelledby="causes-heading">
    <h2 id="causes-heading">Causes</h2>
    <ul>
      ${cause(page, { code: null, field: null, count: page.isWhole ? page.known.size : null })}
      ${repeat(counted(page), keyOf, (each) => cause(page, each))}
    </ul>
  </nav>`
}

const keyOf = ({ code, field }) => JSON.stringify([code, field])

/**
 * The causes, the most frequent first: of the loaded records if these are all; else as the import counted. Those of the same
 * number have the same order in both, so that none moves while it is clicked.
 */
export function counted(page) {
  if (!page.isWhole) return page.job.error_summary
  const counts = new Map()
  for (const { errors } of page.known.values()) {
    const kinds = new Map(errors.map(({ code, field }) => [keyOf({ code, field }), { code, field }]))
    for (const [name, kind] of kinds) {
      const before = counts.get(name) ?? { ...kind, count: 0 }
      counts.set(name, { ...before, count: before.count + 1 })
    }
  }
  const places = new Map(page.job.error_summary.map((kind, place) => [keyOf(kind), place]))
  const place = (kind) => places.get(keyOf(kind)) ?? places.size
  return [...counts.values()].sort((one, other) => other.count - one.count || place(one) - place(other))
}

function cause(page, { code, field, count }) {
  const isShown = (page.code ?? null) === code && (page.field ?? null) === field
  const query = new URLSearchParams(Object.entries({ code, field }).filter(([, value]) => value !== null))
  const label = code === null ? "All" : html`${field === null ? nothing : html`<b>${field}</b> `}${labelOf(code)}`
  const tick = code !== null && isTreated(page, code, field)
  return html`<li>
    <a
      href=${`/ui/imports/${page.job.id}/mend?${query}`}
      aria-current=${isShown ? "true" : nothing}
      title=${code === null ? nothing : `${code}: ${CAUSES[code]?.remedy ?? ""}`}
      @click=${(event) => {
        event.preventDefault()
        page.filter(code, field)
      }}
    >
      <span class="tick">${tick ? html`${icon("check")}<span class="offscreen">treated:</span>` : nothing}</span>
      <span class="grow">${label}</span>
      ${count === null ? nothing : html`<span class="muted">${format.number(count)}</span>`}
    </a>
  </li>`
}

export const labelOf = (code) => CAUSES[code]?.label ?? code

/** Whether there are shown records with this error, and all of them were mended or left out. */
function isTreated(page, code, field) {
  const isIt = (error) => error.code === code && error.field === field
  const shown = page.rows.filter(({ errors }) => errors.some(isIt))
  return shown.length > 0 && shown.every((record) => isTreatedIn(page.edits, record, record.errors.find(isIt)))
}

function isTreatedIn(edits, record, { column }) {
  const mended = edits.mended(record)
  if (mended.isOut) return true
  if (column === null || record.cells === null) return edits.stateOf(record) === "edited"
  const place = record.columns.indexOf(column)
  return !isSame(mended.cells[place] ?? null, record.cells[place] ?? null)
}
