"""What the exit code says. 0 is never given for something that was not analysed."""

OK = 0
POLICY_VIOLATED = 1
USAGE = 2
NOT_ANALYSED = 3
INTERRUPTED = 130
