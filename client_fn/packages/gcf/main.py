"""What functions-framework loads; the function's entry point is `train`."""

import functions_framework

from client_fn import gcf, start
from client_fn.instance import of_this_process

start.prepare()
# A function that is set up wrong shall say so now, not when the first order comes.
of_this_process()

train = functions_framework.cloud_event(gcf.train)
