"""What is compared, and how: methods, tasks, measures, cells, and the report of a run."""
