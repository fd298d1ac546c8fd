/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "params.h"
#include "report.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t
parse_number (const char *word, const char *text)
{
  char *end = NULL;
  uint64_t value = strtoull (text, &end, 10);
  unsigned shift = 0;

  if (*end == 'K' || *end == 'M' || *end == 'G')
    shift = *end == 'K' ? 10 : *end == 'M' ? 20 : 30, end++;
  if (end == text || *end != '\0' || *text == '-' || value << shift >> shift != value)
    report_fatal ("%s: not a number", word);
  return value << shift;
}

static void
apply (params *p, const char *word, const char *name, const char *value)
{
  if (strcmp (name, "fill") == 0)
    p->fill_bytes = parse_number (word, value);
  else if (strcmp (name, "dirty") == 0)
    p->dirty_bytes = parse_number (word, value);
  else if (strcmp (name, "rate") == 0)
    p->dirty_rate = parse_number (word, value);
  else if (strcmp (name, "verify") == 0)
    p->verify_rate = parse_number (word, value);
  else if (strcmp (name, "heartbeat") == 0)
    p->heartbeat_msec = parse_number (word, value);
  else if (strcmp (name, "seed") == 0)
    p->seed = parse_number (word, value);
  else if (strcmp (name, "incompressible") == 0)
    p->incompressible = parse_number (word, value) != 0;
  else if (strcmp (name, "idle") == 0)
    p->idle = parse_number (word, value) != 0;
  else if (strcmp (name, "diskprocs") == 0)
    p->disk_readers = (unsigned) parse_number (word, value);
  else if (strcmp (name, "diskrate") == 0)
    p->disk_rate = parse_number (word, value);
  else if (strcmp (name, "disk") == 0 && strlen (value) < sizeof p->disk)
    strcpy (p->disk, value);
  else if (strcmp (name, "net") != 0 && strcmp (name, "shell") != 0) /* these two are the init script's */
    report_fatal ("%s: unknown or impossible", word);
}

void
params_read (params *out)
{
  static char line[4096];
  FILE *file = fopen ("/proc/cmdline", "r");

  *out = (params){
    .verify_rate = 8u << 20,
    .heartbeat_msec = 20,
    .seed = 1,
    .incompressible = true,
    .disk_readers = 4,
    .disk_rate = 16u << 20,
  };
  if (file == NULL || fgets (line, sizeof line, file) == NULL)
    report_fatal ("no /proc/cmdline");
  fclose (file);

  for (char *word = strtok (line, " \n"); word != NULL; word = strtok (NULL, " \n")) {
    char name[32];
    const char *equals = strchr (word, '=');

    if (strncmp (word, "mf.", 3) != 0)
      continue;
    if (equals == NULL || equals - word - 3 >= (int) sizeof name)
      report_fatal ("%s: not mf.NAME=VALUE", word);
    memcpy (name, word + 3, (size_t) (equals - word - 3));
    name[equals - word - 3] = '\0';
    apply (out, word, name, equals + 1);
  }
  if (out->heartbeat_msec == 0 || out->disk_readers == 0 || out->disk_readers > 64)
    report_fatal ("mf.heartbeat is at least 1, mf.diskprocs 1 to 64");
}
