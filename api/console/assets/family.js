// The family of an import: a dry run and its commit, an import and its retries and repairs.

import { html } from "./vendor/lit-html/lit-html.js"
import { get, Problem } from "./client.js"
import * as format from "./format.js"
import { taken } from "./job_actions.js"
import { state } from "./parts.js"

const PATH = "/api/v1/imports"
const DEPTH_MAX = 10
const CHILDREN_MAX = 20

/** The ancestors of an import, itself, and the imports derived from it, in order. Deleted ones are missing. */
export async function loadFamily(job, page) {
  const ancestors = []
  for (let id = job.parent_id; id && ancestors.length < DEPTH_MAX; id = ancestors[0].parent_id) {
    try {
      ancestors.unshift(await get(`${PATH}/${id}`, {}, page))
    } catch (error) {
      if (error instanceof Problem && error.status === 404) break
      throw error
    }
  }
  const { imports } = await get(PATH, { parent: job.id, limit: CHILDREN_MAX }, page)
  return [...ancestors, job, ...imports.reverse()]
}

export function family(jobs, shown) {
  return html`<section class="card" aria-labelledby="family-heading">
    <h2 id="family-heading">Related imports</h2>
    <ol class="chain">
      ${jobs.map(
        (job) =>
          html`<li aria-current=${job.id === shown.id ? "step" : "false"}>
            <div class="row">
              ${job.id === shown.id ? html`<b>This import</b>` : html`<a href=${`/ui/imports/${job.id}`}>${role(job)}</a>`}
              ${state(job)}
            </div>
            <div class="muted small">${numbers(job)}</div>
          </li>`,
      )}
    </ol>
  </section>`
}

const RELATIONS = { commit: "Commit", retry: "Retry", repair: "Repair" }

function role(job) {
  return RELATIONS[job.relation] ?? (job.dry_run ? "Dry run" : "First import")
}

function numbers(job) {
  const { failed, unprocessed } = job.counts
  return [
    format.count(job.total_records, "record"),
    `${format.number(taken(job))} taken`,
    ...(failed ? [`${format.number(failed)} refused`] : []),
    ...(unprocessed ? [`${format.number(unprocessed)} left`] : []),
  ].join(" · ")
}
