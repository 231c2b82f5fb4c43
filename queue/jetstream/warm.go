package jetstream

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weir-run/weir/queue"
)

const (
	// blockKept is how long the server keeps a block in this process's memory
	// that it has read to find one item: up to 8 MiB.
	blockKept = 12 * time.Second
	// maxWarm is how many blocks that Gets had read may be in memory at once.
	maxWarm = 8
	// warmWait is how long a Get waits for a block to leave that did not when it
	// was to.
	warmWait = 2 * time.Second
	// looksAtBlocks is how often the server's files are listed, at most.
	looksAtBlocks = time.Second
	// firstRecords is how much of a file is read to find its first place.
	firstRecords = 64 << 10
	// noPlace marks a record's place: it is erased, or says that another is.
	noPlace = 3 << 62
)

// warm bounds what Gets of a long queue, all over it, keep in this process's
// memory: a thousand of them are a GiB for ten seconds otherwise. Who needs one
// block more has the server drop the one that was used longest ago. It does so
// when a block's first two items are read, from the second to the first, for
// that looks like the end of a scan; drop knows nothing else of the server.
type warm struct {
	folder string
	drop   func(ctx context.Context, start uint64) bool

	mu     sync.Mutex
	starts map[int]uint64 // by the number of the file: its first place
	order  []uint64       // the starts, rising
	looked time.Time
	blocks []warmBlock // the one that was used last at the end
}

type warmBlock struct {
	start uint64
	until time.Time
}

// enter returns when the block of a place may be read.
func (w *warm) enter(ctx context.Context, seq uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	start, ok := w.blockOf(seq)
	if !ok {
		return nil
	}
	for until := time.Now().Add(warmWait); ; {
		now := time.Now()
		w.blocks = slices.DeleteFunc(w.blocks, func(b warmBlock) bool { return b.start == start || !now.Before(b.until) })
		if len(w.blocks) < maxWarm || w.dropOne(ctx) {
			w.blocks = append(w.blocks, warmBlock{start, now.Add(blockKept)})
			return nil
		}
		if now.After(until) {
			return fmt.Errorf("item %d: %w: too many calls of a long queue are asked for at once; ask again", seq, queue.ErrAway)
		}
		if !pause(ctx, repeatAfter) {
			return fmt.Errorf("item %d: %w: %w", seq, queue.ErrAway, ctx.Err())
		}
	}
}

func (w *warm) dropOne(ctx context.Context) bool {
	for i, b := range w.blocks {
		if w.drop(ctx, b.start) {
			w.blocks = slices.Delete(w.blocks, i, i+1)
			return true
		}
	}
	return false
}

// blockOf is where the block of a place begins; not of the last block, which is
// in memory for those who write.
func (w *warm) blockOf(seq uint64) (start uint64, ok bool) {
	if len(w.order) == 0 || seq >= w.order[len(w.order)-1] {
		w.look(time.Now())
	}
	at, exact := slices.BinarySearch(w.order, seq)
	if !exact {
		at--
	}
	if at < 0 || at >= len(w.order)-1 {
		return 0, false
	}
	return w.order[at], true
}

// look lists the blocks. Files that were there before are not read again: where
// one begins does not change, but that its first items may be gone.
func (w *warm) look(now time.Time) {
	if now.Sub(w.looked) < looksAtBlocks {
		return
	}
	w.looked = now
	entries, err := os.ReadDir(w.folder)
	if err != nil {
		return
	}
	starts := make(map[int]uint64, len(entries))
	w.order = w.order[:0]
	for _, n := range blocks(entries) {
		start, known := w.starts[n]
		if !known {
			start, known = firstPlace(filepath.Join(w.folder, strconv.Itoa(n)+".blk"))
		}
		if known {
			starts[n], w.order = start, append(w.order, start)
		}
	}
	w.starts = starts
	slices.Sort(w.order)
}

// firstPlace is that of the first item in a block's file.
func firstPlace(path string) (uint64, bool) {
	file, err := os.Open(path)
	if err != nil {
		return 0, false
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, firstRecords))
	for err == nil && len(data) >= recordHead {
		if place := binary.LittleEndian.Uint64(data[4:]); place&noPlace == 0 {
			return place, place > 0
		}
		n, _, _ := record(data)
		if n == 0 {
			break
		}
		data = data[n:]
	}
	return 0, false
}

// dropBlock has the server drop the block that begins at start, or where its
// first items are gone later.
func (s *Store) dropBlock(ctx context.Context, start uint64) bool {
	if s.scanBack(ctx, start) {
		return true
	}
	msg, err := s.queue.GetMsg(ctx, start, jetstream.WithGetMsgSubject(s.subject(">")))
	return err == nil && s.scanBack(ctx, msg.Sequence)
}

func (s *Store) scanBack(ctx context.Context, first uint64) bool {
	_, _ = s.queue.GetMsg(ctx, first+1) // also of one that is gone
	_, err := s.queue.GetMsg(ctx, first)
	return err == nil
}
