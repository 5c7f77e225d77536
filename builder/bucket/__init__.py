"""Model repositories in buckets: s3://, gs:// and az://.

No operation knows of buckets. Each works on a repository in a folder, and this package gives it one: `working_copy`
downloads what it reads, `commit` uploads what it changed, in an order in which a server that reads the bucket never
sees half of a version. `running` does both around the operation, and tries again when somebody else was faster.
`wanted` says which large objects each operation reads. `mirror` does it again and again while a model is deployed.
"""

from builder.bucket.running import change, is_url, mirrored, read, read_all
from builder.bucket.storage import Storage, storage_errors
from builder.bucket.wording import Names
from builder.bucket.working_copy import Wanted

__all__ = ["Names", "Storage", "Wanted", "change", "is_url", "mirrored", "read", "read_all", "storage_errors"]
