"""What tests share: the servers they run against, clients, factories of records, fault injection.

Nothing here is a test. `postgres` and `service` start processes, `eventually` waits for them, `api_client`, `exports` and
`sse` speak HTTP, `factories` and `workers` drive the queue, the rest breaks something on request.
"""

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
