// Step 4: storing the files that were checked.

import { html, nothing } from "../vendor/lit-html/lit-html.js"
import { asCurl } from "../client.js"
import * as format from "../format.js"
import { ask, curl, icon, isFinal } from "../parts.js"
import { heading, progress, refusal } from "./progress.js"

export function storeStep(page) {
  const { draft } = page
  return html`
    ${draft.entries.map(
      (entry) =>
        html`<section class="checked-file" aria-label=${`Store ${entry.file.name}`}>
          ${heading(draft, entry)} ${entryState(page, entry)}
        </section>`,
    )}
    ${
      draft.isOver
        ? html`<div class="buttons">
            <button type="button" class="primary" @click=${() => page.startOver()}>${icon("plus")} Import another file</button>
          </div>`
        : nothing
    }
  `
}

function entryState(page, entry) {
  const { draft } = page
  if (entry.isThrownAway) return html`<p class="muted">Thrown away: nothing of this file was stored.</p>`
  if (entry.stored || (entry.sending && !entry.sending.parameters.dry_run)) return stored(page, entry)
  if (entry.check && isFinal(entry.check)) return decision(page, entry)
  if (entry.isBusy) return html`<p class="muted">It is being checked.</p>`
  const parent = draft.waitsFor(entry)
  if (parent)
    return html`<p class="muted">It is checked when ${parent.file.name} is stored, because its records refer to those.</p>`
  return html`${refusal(entry)}
    <p class="muted">It was neither checked nor stored. Go back to the check.</p>`
}

function stored(page, entry) {
  const job = entry.stored
  return html`${refusal(entry)} ${progress(page, entry, { isDryRun: false })}
  ${
    job && isFinal(job) && job.counts.failed
      ? html`<p class="row">
          <a class="button" href=${`/ui/imports/${job.id}/mend`}
            >${icon("edit")} Mend ${format.count(job.counts.failed, "refused record")}</a
          >
        </p>`
      : nothing
  }`
}

function decision(page, entry) {
  const { draft } = page
  const { check } = entry
  const taken = check.counts.created + check.counts.updated + check.counts.unchanged + check.counts.skipped
  const canCommit = check.links.commit && !draft.isOutdated(entry) && taken > 0
  return html`${refusal(entry)} ${sentence(draft, entry, taken)}
    <div class="buttons left">
      ${
        canCommit
          ? html`<button type="button" class="primary" ?disabled=${entry.isBusy} @click=${() => draft.commit(entry)}>
              ${icon("check")} Commit ${format.count(taken, "record")}
            </button>`
          : nothing
      }
      ${
        check.counts.failed
          ? html`<a class="button" href=${`/ui/imports/${check.id}/mend`}>${icon("edit")} Mend first</a>`
          : nothing
      }
      <button type="button" class="danger" ?disabled=${entry.isBusy} @click=${() => throwAway(page, entry)}>
        ${icon("trash")} Throw away
      </button>
    </div>
    ${canCommit ? curl(asCurl("POST", draft.commitPath(entry))) : nothing}`
}

function sentence(draft, entry, taken) {
  const { check } = entry
  if (draft.isOutdated(entry)) {
    return html`<p class="notice warn">
      ${icon("alert")} <span>The columns or options have changed since the check: check the file again.</span>
    </p>`
  }
  if (check.status !== "completed") {
    return html`<p>
      The check was not completed, so nothing can be committed. Change the options and check again, or mend the refused records.
    </p>`
  }
  if (!check.counts.failed) return html`<p>Every record can be stored. The file is not uploaded a second time.</p>`
  if (!taken) return html`<p>No record can be stored as it is.</p>`
  return html`<p>
    ${format.count(taken, "record")} can be stored now. The ${format.count(check.counts.failed, "refused record")} can be mended
    before or afterwards.
  </p>`
}

async function throwAway(page, entry) {
  const sure = await ask({
    heading: `Throw ${entry.file.name} away?`,
    text: "The check and its results are removed from the service. Nothing of the file was stored.",
    confirmLabel: "Throw away",
    danger: true,
  })
  if (sure) await page.draft.throwAway(entry)
}
