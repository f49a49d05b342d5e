"""What kernels of Jupyter read when they start, once this file lies in `etc/ipython` of the environment.

Each kernel warns that it is spoken to without encryption, and papermill has no option for that. It is spoken to on its
own machine only, and by signed messages, as it was before it warned; its other warnings are shown.
"""

import logging

logging.getLogger("IPKernelApp").addFilter(lambda record: "over TCP without encryption" not in str(record.msg))
