/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/mf-cli-progress.h"

#include "cli/mf-quantity.h"
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

char *
mf_cli_region_names (MfDbusJob1 *job)
{
  const char *const *names = mf_dbus_job1_get_regions (job);

  return names ? g_strjoinv (",", (char **) names) : g_strdup ("");
}

gboolean
mf_cli_job_has_ended (MfDbusJob1 *job)
{
  const char *const ended[] = { "done", "failed", "cancelled", NULL };
  const char *state = mf_dbus_job1_get_state (job);

  return state && g_strv_contains (ended, state);
}

static const char *
preposition (MfDbusJob1 *job)
{
  return g_strcmp0 (mf_dbus_job1_get_direction (job), "incoming") == 0 ? "from" : "to";
}

static void
append_stage (GString *line, MfDbusJob1 *job)
{
  g_string_append (line, mf_dbus_job1_get_stage (job));
  if (g_strcmp0 (mf_dbus_job1_get_stage (job), "pre-copy") == 0 && mf_dbus_job1_get_round (job) > 0)
    g_string_append_printf (line, " round %u", mf_dbus_job1_get_round (job));
  if (g_strcmp0 (mf_dbus_job1_get_state (job), "paused") == 0)
    g_string_append (line, ", the link is lost, trying again");
}

char *
mf_cli_progress_line (MfDbusJob1 *job)
{
  g_autoptr (GString) line = g_string_new (NULL);
  g_autofree char *names = mf_cli_region_names (job);
  g_autofree char *bytes = mf_quantity_format_size (mf_dbus_job1_get_bytes (job));
  g_autofree char *total = mf_quantity_format_size (mf_dbus_job1_get_total (job));
  g_autofree char *rate = mf_quantity_format_rate (mf_dbus_job1_get_rate (job));
  guint64 predicted = mf_dbus_job1_get_predicted_downtime (job);

  g_string_append_printf (line, "%s %s %s: ", names, preposition (job), mf_dbus_job1_get_peer (job));
  append_stage (line, job);
  g_string_append_printf (line, ", %s of %s, %s", bytes, total, rate);
  if (mf_dbus_job1_get_dirty_rate (job)) {
    g_autofree char *dirty = mf_quantity_format_rate (mf_dbus_job1_get_dirty_rate (job));

    g_string_append_printf (line, ", dirty %s", dirty);
  }
  if (mf_dbus_job1_get_downtime (job)) {
    g_autofree char *downtime = mf_quantity_format_usec (mf_dbus_job1_get_downtime (job));
    g_autofree char *remaining = mf_quantity_format_size (mf_dbus_job1_get_remaining (job));

    g_string_append_printf (line, ", downtime %s, %s to come", downtime, remaining);
  } else if (predicted != G_MAXUINT64) {
    g_autofree char *downtime = mf_quantity_format_usec (predicted);

    g_string_append_printf (line, ", downtime %s if it moved now", downtime);
  }
  return g_string_free (g_steal_pointer (&line), FALSE);
}

char *
mf_cli_summary_line (MfDbusJob1 *job)
{
  g_autoptr (GString) line = g_string_new (NULL);
  g_autofree char *names = mf_cli_region_names (job);
  g_autofree char *bytes = mf_quantity_format_size (mf_dbus_job1_get_bytes (job));
  g_autofree char *elapsed = mf_quantity_format_usec (mf_dbus_job1_get_elapsed (job));
  g_autofree char *downtime = mf_quantity_format_usec (mf_dbus_job1_get_downtime (job));
  g_autofree char *p50 = mf_quantity_format_usec (mf_dbus_job1_get_fault_p50 (job));
  g_autofree char *p99 = mf_quantity_format_usec (mf_dbus_job1_get_fault_p99 (job));
  guint rounds = mf_dbus_job1_get_round (job);
  guint64 faults = mf_dbus_job1_get_faults (job);

  g_string_append_printf (line, "%s moved %s %s in %s: %s, %s in %u round%s, downtime %s", names, preposition (job),
                          mf_dbus_job1_get_peer (job), elapsed, mf_dbus_job1_get_mode (job), bytes, rounds,
                          rounds == 1 ? "" : "s", downtime);
  if (faults)
    g_string_append_printf (line, ", %" G_GUINT64_FORMAT " faults (p50 %s, p99 %s)", faults, p50, p99);
  else
    g_string_append (line, ", no faults");
  if (mf_dbus_job1_get_pauses (job)) {
    g_autofree char *longest = mf_quantity_format_usec (mf_dbus_job1_get_longest_pause (job));

    g_string_append_printf (line, ", %u pauses (longest %s)", mf_dbus_job1_get_pauses (job), longest);
  }
  return g_string_free (g_steal_pointer (&line), FALSE);
}

static glong
terminal_width (void)
{
  struct winsize size = { 0 };

  return ioctl (STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : 80;
}

void
mf_cli_progress_show (const char *line)
{
  /* One column less: some terminals go on to the next line when the last one is written. */
  g_autofree char *fitting = g_utf8_substring (line, 0, MIN (terminal_width () - 1, g_utf8_strlen (line, -1)));

  g_print ("\r\033[K%s", fitting);
  fflush (stdout);
}

void
mf_cli_progress_clear (void)
{
  g_print ("\r\033[K");
  fflush (stdout);
}
