"""Models made quick or taken elsewhere: students, other runtimes, files of other libraries."""
