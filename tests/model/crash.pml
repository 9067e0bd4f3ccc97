/* Crash and recovery: writers, a merger that dies at any step and is started again, and readers.
 *
 * Memory is sequentially consistent here, since orders are the other models' matter; every step that changes or reads
 * shared memory is a step of its own, and between any two the merger or a writer may die. What lies in shared files is
 * global and survives; what a process keeps to itself is local and is lost. Each step names the code that it models.
 *
 * -DRINGS, -DMUTATIONS, -DBUFFERS, -DDEATHS, -DREADS set the size. The environment variable MUTANT is the number of the
 * mutant in the list below that is run instead; tests/model/crash_model.sh runs them all, and expects a violation.
 */
#ifndef RINGS
#define RINGS 1
#endif
#ifndef MUTATIONS
#define MUTATIONS 3 /* of each writer */
#endif
#ifndef BUFFERS
#define BUFFERS 2
#endif
#ifndef DEATHS
#define DEATHS 2 /* of the merger */
#endif
#ifndef READS
#define READS 2
#endif
#define CAPACITY 2 /* of a ring, in records: it wraps, and it is full at times */
#define WRITING 0 /* layout::kWriting */
#define CLAIMED 128 /* layout::kClaimed */
#define UNKNOWN 255 /* what PinNews has forgotten */

/* The mutants. */
#define HEAD_BEFORE_PUBLISH (mutant == 1)
#define CURSOR_DROPPED_BEFORE_UNLINK (mutant == 2)
#define RESTART_TRUSTS_BACK_BUFFER (mutant == 3)
#define HEADS_NOT_MOVED_AT_RESUME (mutant == 4)
#define WORD_BEFORE_STAMP (mutant == 5)
#define NO_WRITING_STAMP (mutant == 6)
#define RESUME_FROM_HEAD (mutant == 7)
#define TAIL_BEFORE_RECORD (mutant == 8)
#define TAIL_FOR_EACH_RECORD (mutant == 9)
#define PINS_ASKED_BEFORE_CLAIM (mutant == 10)
#define ORPHANS_KEPT (mutant == 11)
#define EPOCHS_BEGIN_ANEW (mutant == 12)
#define NO_CATCH_UP (mutant == 13)
#define ORPHANS_KEEP_EPHEMERALS (mutant == 14)
#define FINISH_WITHOUT_LOOKING_AT_TAIL (mutant == 15)
#define ANNOUNCED_BEFORE_VERSION (mutant == 16)
#define NOT_ANNOUNCED (mutant == 17)
byte mutant;

/* ---- shared files */

typedef Buffer {
  byte stamp;
  byte value[RINGS];   /* a counter for each writer: how many of its mutations were applied */
  bit owned[RINGS];    /* whether there is an ephemeral entry of it */
  bit has_cursor[RINGS];
  byte cursor[RINGS];
};
Buffer buffers[BUFFERS];
byte word_epoch, word_buffer; /* the epoch word: always read and written in one step */
byte pins[BUFFERS];           /* the kernel's lock list */
byte announced;               /* how many pins */

typedef Ring {
  bit file;
  bit lock; /* held by the writer while it lives */
  byte tail, head;
  byte data[CAPACITY]; /* of the record at a position: that position + 1 */
};
Ring rings[RINGS];

/* ---- what only the properties need */

byte deaths;
bit has_ended[RINGS];
typedef Positions { bit is_inside_batch[MUTATIONS + 1]; };
Positions positions[RINGS];

#define MAY_DIE \
  if \
  :: deaths < DEATHS -> deaths++; goto dead \
  :: skip \
  fi

/* ---- writer: Writer::Impl::write and RingProducer */

proctype Writer(byte r) {
  byte count, i;
  d_step { rings[r].lock = 1; rings[r].file = 1 } /* RingFile::create: the file gets its name when all is in it */
  do
  :: rings[r].tail == MUTATIONS -> break
  :: rings[r].tail < MUTATIONS ->
    if
    :: count = 1
    :: rings[r].tail + 2 <= MUTATIONS -> count = 2 /* a batch */
    :: goto ended /* dies, or ends */
    fi;
    rings[r].tail + count - rings[r].head <= CAPACITY; /* has_room, else wait_for_head */
    if
    :: TAIL_BEFORE_RECORD -> rings[r].tail = rings[r].tail + count
    :: else
    fi;
    i = 0;
    do
    :: i == count -> break
    :: i < count ->
      if
      :: TAIL_BEFORE_RECORD ->
        rings[r].data[(rings[r].tail - count + i) % CAPACITY] = rings[r].tail - count + i + 1
      :: TAIL_FOR_EACH_RECORD ->
        d_step {
          if
          :: i + 1 < count -> positions[r].is_inside_batch[rings[r].tail + 1] = 1
          :: else
          fi;
          rings[r].data[rings[r].tail % CAPACITY] = rings[r].tail + 1;
          rings[r].tail++
        }
      :: else ->
        d_step {
          rings[r].data[(rings[r].tail + i) % CAPACITY] = rings[r].tail + i + 1; /* encode_record */
          if
          :: i + 1 < count -> positions[r].is_inside_batch[rings[r].tail + i + 1] = 1
          :: else
          fi
        }
      fi;
      i++;
      if
      :: i < count -> if :: goto ended :: skip fi /* dies within the batch */
      :: else
      fi
    od;
    if
    :: TAIL_BEFORE_RECORD || TAIL_FOR_EACH_RECORD
    :: else ->
      d_step { /* RingProducer::push: the one store that accepts all of them */
        i = 0;
        rings[r].tail = rings[r].tail + count;
        count = 0
      }
    fi
  od;
ended:
  skip;
  d_step {
    if /* a batch that was never pushed: its place is used again */
    :: rings[r].tail < MUTATIONS && !TAIL_FOR_EACH_RECORD -> positions[r].is_inside_batch[rings[r].tail + 1] = 0
    :: else
    fi;
    has_ended[r] = 1;
    rings[r].lock = 0 /* by the kernel */
  }
}

/* ---- merger: MergeEngine */

#define LINES (2 * RINGS) /* line 2r: the entries of writer r; line 2r + 1: its cursor */
#define ALL_LINES ((1 << LINES) - 1)
#define MARK(line) written = written | (1 << (line)) /* Replicas::mark */

proctype Merger() {
  byte epoch, current, back, r, line, tail, position;
  bit is_claimed, is_dirty, is_idle;
  bit is_served[RINGS], is_orphan[RINGS];
  byte cursor[RINGS];           /* RingConsumer */
  byte published_cursor[RINGS]; /* ServedRing */
  byte stale[BUFFERS], written; /* Replicas: sets of lines */
  byte unpinned_at[BUFFERS];    /* PinNews */
  byte count;

start: /* the constructor, resume() and resume_rings() */
  skip;
  d_step {
    epoch = word_epoch;
    current = word_buffer;
    assert(buffers[current].stamp == epoch); /* else it refuses: "no buffer holds the current epoch" */
    if
    :: EPOCHS_BEGIN_ANEW -> epoch = 1
    :: else
    fi;
    back = 0;
    do /* Replicas::start_from */
    :: back == BUFFERS -> break
    :: back < BUFFERS ->
      stale[back] = ((back == current || RESTART_TRUSTS_BACK_BUFFER) -> 0 : ALL_LINES);
      unpinned_at[back] = UNKNOWN;
      back++
    od;
    back = 0;
    written = 0;
    is_claimed = 0;
    is_dirty = 0;
    r = 0
  }
  do
  :: r == RINGS -> break
  :: r < RINGS ->
    d_step {
      is_served[r] = 0;
      is_orphan[r] = 0;
      cursor[r] = 0;
      published_cursor[r] = 0;
      if
      :: buffers[current].has_cursor[r] && !rings[r].file -> is_orphan[r] = !ORPHANS_KEPT
      :: buffers[current].has_cursor[r] && rings[r].file ->
        is_served[r] = 1;
        cursor[r] = (RESUME_FROM_HEAD -> rings[r].head : buffers[current].cursor[r]);
        published_cursor[r] = cursor[r]
      :: else
      fi
    }
    if
    :: is_served[r] && !HEADS_NOT_MOVED_AT_RESUME ->
      MAY_DIE;
      rings[r].head = cursor[r] /* RingConsumer::release in resume_rings */
    :: else
    fi;
    r++
  od;

turn: /* step() */
  /* claim_back_buffer and try_claim */
  if
  :: is_claimed
  :: else ->
claim:
    if
    :: back = (current + 1) % BUFFERS
#if BUFFERS > 2
    :: back = (current + 2) % BUFFERS
#endif
    fi;
    if
    :: PINS_ASKED_BEFORE_CLAIM -> pins[back] == 0
    :: else
    fi;
    buffers[back].stamp = buffers[back].stamp | CLAIMED; /* step 1 */
    MAY_DIE;
    count = announced; /* step 2: PinNews::is_pinned */
    if
    :: count == unpinned_at[back] || PINS_ASKED_BEFORE_CLAIM
    :: count != unpinned_at[back] && !PINS_ASKED_BEFORE_CLAIM ->
      if
      :: pins[back] == 0 -> unpinned_at[back] = count
      :: pins[back] != 0 ->
        buffers[back].stamp = buffers[back].stamp & (CLAIMED - 1);
        count = 0;
        goto claim
      fi
    fi;
    count = 0;
    if
    :: NO_WRITING_STAMP
    :: else -> buffers[back].stamp = WRITING /* step 3 */
    fi;
    MAY_DIE;
    /* Replicas::begin_writing: after a start all lines, else those that it lacks */
    line = 0;
    do
    :: line == LINES -> break
    :: line < LINES && !(stale[back] & (1 << line)) -> line++
    :: line < LINES && (stale[back] & (1 << line)) ->
      d_step { /* copy_line */
        r = line / 2;
        if
        :: NO_CATCH_UP
        :: !NO_CATCH_UP && line % 2 == 0 ->
          buffers[back].value[r] = buffers[current].value[r];
          buffers[back].owned[r] = buffers[current].owned[r]
        :: !NO_CATCH_UP && line % 2 == 1 ->
          buffers[back].has_cursor[r] = buffers[current].has_cursor[r];
          buffers[back].cursor[r] = buffers[current].cursor[r]
        fi;
        line++
      }
      MAY_DIE
    od;
    skip;
    d_step { stale[back] = 0; is_claimed = 1; line = 0; tail = 0 }
  fi;

  /* look_for_rings and serve */
  r = 0;
  do
  :: r == RINGS -> break
  :: r < RINGS ->
    d_step {
      if
      :: rings[r].file && !is_served[r] && !is_orphan[r] ->
        is_served[r] = 1;
        cursor[r] = 0;
        published_cursor[r] = 0;
        buffers[back].has_cursor[r] = 1;
        buffers[back].cursor[r] = 0;
        MARK(2 * r + 1);
        is_dirty = 1
      :: else
      fi;
      r++
    }
  od;

  /* drain_rings and drain */
  r = 0;
  do
  :: r == RINGS -> break
  :: r < RINGS && (!is_served[r] || rings[r].tail == cursor[r]) -> r++
  :: r < RINGS && is_served[r] && rings[r].tail != cursor[r] ->
    tail = rings[r].tail;
    position = cursor[r];
    do
    :: position == tail -> break
    :: position != tail ->
      d_step { /* stage and apply */
        assert(position < tail && rings[r].data[position % CAPACITY] == position + 1); /* no record lost or changed */
        buffers[back].value[r]++;
        buffers[back].owned[r] = 1;
        MARK(2 * r);
        position++
      }
      MAY_DIE
    od;
    skip;
    d_step {
      cursor[r] = position;
      buffers[back].cursor[r] = position;
      MARK(2 * r + 1);
      is_dirty = 1;
      position = 0;
      tail = 0
    }
    MAY_DIE;
    if
    :: HEAD_BEFORE_PUBLISH -> rings[r].head = cursor[r]; MAY_DIE
    :: else
    fi;
    r++
  od;

  /* finish_rings and try_finish, drop_orphans */
  r = 0;
  do
  :: r == RINGS -> break
  :: r < RINGS && is_served[r] && !rings[r].lock &&
     (rings[r].tail == published_cursor[r] || FINISH_WITHOUT_LOOKING_AT_TAIL) ->
    d_step { buffers[back].owned[r] = 0; MARK(2 * r); is_dirty = 1 } /* Table::erase_owned */
    MAY_DIE;
    if
    :: CURSOR_DROPPED_BEFORE_UNLINK
    :: else ->
      rings[r].file = 0; /* RingFile::try_remove */
      MAY_DIE
    fi;
    d_step { buffers[back].has_cursor[r] = 0; MARK(2 * r + 1); is_served[r] = 0 } /* drop_cursor */
    r++
  :: r < RINGS && is_orphan[r] ->
    d_step {
      buffers[back].owned[r] = (ORPHANS_KEEP_EPHEMERALS -> buffers[back].owned[r] : 0);
      buffers[back].has_cursor[r] = 0;
      MARK(2 * r);
      MARK(2 * r + 1);
      is_orphan[r] = 0;
      is_dirty = 1;
      r++
    }
  :: else -> r++
  od;
  MAY_DIE;

  if
  :: !is_dirty -> goto idle
  :: else
  fi;

  /* publish and publish_version */
  if
  :: WORD_BEFORE_STAMP
  :: else ->
    buffers[back].stamp = epoch + 1; /* step 5 */
    MAY_DIE
  fi;
  d_step { /* step 6 */
    assert(epoch + 1 > word_epoch); /* epochs never go back */
    epoch++;
    word_epoch = epoch;
    word_buffer = back;
    r = 0;
    do
    :: r == RINGS -> break
    :: r < RINGS ->
      /* exactly once: the state is the effect of the bytes before the cursor; a ring taken for a new one shows, too */
      assert(!buffers[back].has_cursor[r] || buffers[back].value[r] == buffers[back].cursor[r]);
      assert(buffers[back].value[r] <= rings[r].tail);
      assert(!positions[r].is_inside_batch[buffers[back].value[r]]); /* no batch is split */
      assert(buffers[back].value[r] >= buffers[current].value[r]); /* prefixes only grow */
      r++
    od;
    current = back;
    r = 0
  }
  MAY_DIE;
  if
  :: WORD_BEFORE_STAMP -> buffers[back].stamp = epoch
  :: else
  fi;
  d_step { /* Replicas::published */
    line = 0;
    do
    :: line == BUFFERS -> break
    :: line < BUFFERS ->
      stale[line] = (line == current -> 0 : stale[line] | written);
      line++
    od;
    line = 0;
    written = 0;
    is_claimed = 0;
    is_dirty = 0
  }

  /* release_heads: step 7 */
  r = 0;
  do
  :: r == RINGS -> break
  :: r < RINGS && CURSOR_DROPPED_BEFORE_UNLINK && !is_served[r] && !rings[r].lock && rings[r].file -> MAY_DIE; rings[r].file = 0
  :: r < RINGS && is_served[r] && published_cursor[r] != cursor[r] ->
    d_step { published_cursor[r] = cursor[r]; rings[r].head = cursor[r] }
    MAY_DIE;
    r++
  :: else -> r++
  od;
  goto turn;

idle: /* Service::sleep: everything that was accepted has been published */
  skip;
  d_step {
    r = 0;
    is_idle = 1;
    do
    :: r == RINGS -> break
    :: r < RINGS ->
      if
      :: !has_ended[r] || rings[r].file -> is_idle = 0
      :: else
      fi;
      r++
    od;
    r = 0;
    do
    :: is_idle && r < RINGS ->
      assert(buffers[current].value[r] == rings[r].tail); /* no accepted mutation is lost */
      assert(!buffers[current].has_cursor[r] && !buffers[current].owned[r]); /* nothing is left behind */
      r++
    :: else -> break
    od;
    r = 0;
    is_idle = 0
  }
end_idle:
  if
  :: rings[0].file && (!is_served[0] || rings[0].tail != cursor[0] || !rings[0].lock) -> goto turn
#if RINGS > 1
  :: rings[1].file && (!is_served[1] || rings[1].tail != cursor[1] || !rings[1].lock) -> goto turn
#endif
  :: deaths < DEATHS -> deaths++; goto dead
  fi;

dead: /* its lock vanishes with it, and another one starts */
  goto start
}

/* ---- reader: Reader::Impl::read_current, Attachment::pin_current */

proctype Reader() {
  byte epoch, buffer, newest, reads, r;
  byte value[RINGS], cursor[RINGS];
  byte expected_value[RINGS], expected_cursor[RINGS]; /* the current buffer is whole */
  bit is_pinned;
  do
  :: reads == READS -> break
  :: reads < READS ->
    if
    :: ANNOUNCED_BEFORE_VERSION -> announced++
    :: else
    fi;
    d_step { /* current_version */
      epoch = word_epoch;
      buffer = word_buffer;
      reads++;
      assert(epoch >= newest);
      newest = epoch;
      r = 0;
      do
      :: r == RINGS -> break
      :: r < RINGS ->
        expected_value[r] = buffers[buffer].value[r];
        expected_cursor[r] = buffers[buffer].cursor[r];
        r++
      od;
      r = 0
    }
    if
    :: is_pinned = 0
    :: true -> /* try_pin; without this, the else below would belong to the outer selection */
      if
      :: ANNOUNCED_BEFORE_VERSION || NOT_ANNOUNCED
      :: else -> announced++
      fi;
      pins[buffer]++;
      is_pinned = 1;
      if
      :: buffers[buffer].stamp != epoch -> goto done
      :: else
      fi
    fi;
    r = 0;
    do
    :: r == RINGS -> break
    :: r < RINGS ->
      value[r] = buffers[buffer].value[r];
      cursor[r] = buffers[buffer].cursor[r];
      r++
    od;
    if
    :: !is_pinned && buffers[buffer].stamp != epoch /* is_intact: start again */
    :: else ->
      d_step {
        assert(!is_pinned || (buffers[buffer].stamp & (CLAIMED - 1)) == epoch); /* is_kept */
        r = 0;
        do
        :: r == RINGS -> break
        :: r < RINGS ->
          assert(value[r] == expected_value[r] && cursor[r] == expected_cursor[r]); /* never torn */
          r++
        od;
        r = 0
      }
    fi;
done:
    if
    :: is_pinned -> pins[buffer]-- /* SnapshotFile::unpin, or the kernel when it dies */
    :: else
    fi;
    d_step {
      is_pinned = 0;
      epoch = 0;
      buffer = 0;
      r = 0;
      do
      :: r == RINGS -> break
      :: r < RINGS ->
        value[r] = 0;
        cursor[r] = 0;
        expected_value[r] = 0;
        expected_cursor[r] = 0;
        r++
      od;
      r = 0
    }
  od
}

init {
  byte r;
  c_code { now.mutant = getenv("MUTANT") ? (unsigned char)atoi(getenv("MUTANT")) : 0; };
  atomic {
    word_epoch = 1; /* MergeEngine::create */
    buffers[0].stamp = 1;
    do
    :: r == RINGS -> break
    :: r < RINGS -> run Writer(r); r++
    od;
    run Merger();
#if READS > 0
    run Reader()
#endif
  }
  timeout; /* nobody can go on: then nobody may be waiting for room */
  r = 0;
  do
  :: r == RINGS -> break
  :: r < RINGS -> assert(has_ended[r]); r++
  od
}
