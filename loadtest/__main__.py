"""`python -m loadtest`."""

from loadtest.search_path import leave_out_working_directory

if __name__ == "__main__":
    leave_out_working_directory()

    from loadtest.commands import run

    run()
