"""What the server and the sites both stand on: the plan, the messages, the metrics and the models.

Importing this package sets the cipher suites of the TLS library under gRPC, which reads them when it is loaded and not
again: the one suite of TLS 1.2 that is left needs an RSA certificate, and all of ours are P-256, so no version below
1.3 can be agreed on. It comes first in every process of ours; ``wire.tls`` refuses to work where it did not.
"""

import os
import sys
from importlib.metadata import version
from typing import Final

__version__ = version("hansa")

_SUITES: Final = "ECDHE-RSA-AES128-GCM-SHA256"
TLS_IS_1_3_ONLY: Final = "grpc" not in sys.modules or os.environ.get("GRPC_SSL_CIPHER_SUITES") == _SUITES
os.environ["GRPC_SSL_CIPHER_SUITES"] = _SUITES
