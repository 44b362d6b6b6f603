"""The names of the queue's messages, known to those who send and to those who receive. A message is a wake-up, never the truth."""

RUN_JOB = "expunge.run_job"
"""Run this job if it can be claimed; one argument, the job's id as a string."""

SWEEP = "expunge.sweep"
"""Take back lapsed leases and wake the jobs that are due; no argument."""
