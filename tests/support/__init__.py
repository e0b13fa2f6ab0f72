"""What tests share: the servers they run against, clients, factories of records, fault injection.

There are no tests here. `postgres` and `service` start processes, `eventually` waits for them, `api_client`, `exports` and
`sse` send requests, `factories` and `workers` drive the queue, most others inject faults.
"""

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
