"""What travels between a site and the coordinator: calls, codec and TLS profile.

Importing this package before a connection is made sets the cipher suites of the TLS library under gRPC: the one suite
of TLS 1.2 that is left needs an RSA certificate, and all of ours are P-256, so no version below 1.3 can be agreed on.
"""

import os

os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES128-GCM-SHA256"
