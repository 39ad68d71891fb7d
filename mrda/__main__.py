# SPDX-License-Identifier: Apache-2.0
"""`python -m mrda` is the command `mrda`."""

from mrda.cli import main

if __name__ == "__main__":
    main()
