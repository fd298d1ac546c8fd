/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Prints the page map's transition table as a Promela macro, so that the model checks the table that the code goes
 * by, not a copy.
 *
 *   NEXT(state, event)   the state after, or NOT_LEGAL
 */
#include "core/mf-page-map.h"

#include <stdio.h>

static const struct {
  mf_page_event event;
  const char *name;
} events[] = {
  { MF_PAGE_CLAIM, "CLAIM" },
  { MF_PAGE_ARRIVE, "ARRIVE" },
  { MF_PAGE_FAIL, "FAIL" },
  { MF_PAGE_WRITE, "WRITE" },
  { MF_PAGE_READ_TO_SEND, "READ_TO_SEND" },
  { MF_PAGE_SEND_FAILED, "SEND_FAILED" },
  { MF_PAGE_INVALIDATE, "INVALIDATE" },
};

int
main (void)
{
  unsigned n_rows = 0;

  printf ("#define MISSING %d\n#define PRESENT %d\n#define WANTED %d\n#define DIRTY %d\n#define LATE %d\n",
          MF_PAGE_MISSING, MF_PAGE_PRESENT, MF_PAGE_WANTED, MF_PAGE_DIRTY, MF_PAGE_LATE);
  printf ("#define NOT_LEGAL 255\n");
  for (unsigned e = 0; e < sizeof events / sizeof events[0]; e++)
    printf ("#define %s %d\n", events[e].name, (int) events[e].event);

  printf ("#define NEXT(s, e) ( \\\n");
  for (unsigned e = 0; e < sizeof events / sizeof events[0]; e++) {
    for (unsigned state = 0; state < 16; state++) {
      mf_page_state next;
      if (!mf_page_next ((mf_page_state) state, events[e].event, &next))
        continue;
      printf ("  ((e) == %s && (s) == %u) -> %u : ( \\\n", events[e].name, state, (unsigned) next);
      n_rows++;
    }
  }
  printf ("  NOT_LEGAL");
  while (n_rows-- > 0)
    printf (")");
  printf (")\n");
  return 0;
}
