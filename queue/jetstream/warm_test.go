package jetstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/weir-run/weir/queue"
)

// TestGetsAllOverALongQueueAreBounded reads items of 24 blocks of 8 MiB, some of
// whose first ones are gone, and looks how much of them is in memory.
func TestGetsAllOverALongQueueAreBounded(t *testing.T) {
	const inBlock, items = 128, 24 * 128
	dir := t.TempDir()
	s := open(t, Config{Dir: dir})
	data := bytes.Repeat([]byte("x"), 64<<10)
	seqs := make([]uint64, items)
	for i := range seqs {
		var err error
		if seqs[i], _, err = s.Put(t.Context(), lane, data, ""); err != nil {
			t.Fatal(err)
		}
	}
	gone := map[int]bool{}
	for i := 5 * inBlock; i < items; i += 5 * inBlock {
		for j := i - 2; j < i+3; j++ {
			gone[j] = true
			if err := s.Remove(t.Context(), seqs[j]); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.Close()
	s = open(t, Config{Dir: dir})
	before := live()
	for _, i := range rand.Perm(items)[:300] {
		item, err := s.Get(t.Context(), seqs[i])
		switch {
		case gone[i] && errors.Is(err, queue.ErrNotFound):
		case err != nil || gone[i] || item.Seq != seqs[i] || !bytes.Equal(item.Data, data):
			t.Fatalf("item %d, gone %t: %d bytes, %v", i, gone[i], len(item.Data), err)
		}
	}
	if len(s.warm.blocks) != maxWarm {
		t.Errorf("%d blocks are thought to be in memory, expected %d", len(s.warm.blocks), maxWarm)
	}
	// The server keeps the last block, and one more is being replaced.
	if kept, most := live()-before, int64(maxWarm+2)*8<<20; kept > most {
		t.Errorf("%d MiB are kept, at most %d expected", kept>>20, most>>20)
	}
}

func live() int64 {
	var m runtime.MemStats
	runtime.GC() // pools of buffers are emptied by the second
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestTheBlockUsedLongestAgoIsDropped(t *testing.T) {
	folder := t.TempDir()
	for n, place := range []uint64{1, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000} {
		// The place is at 4; a file that begins with one that is erased has it
		// in its next record.
		head := make([]byte, recordHead+recordSum)
		head[0] = byte(len(head))
		first := bytes.Clone(head)
		first[4], first[11] = 7, 0x40
		head[4], head[5] = byte(place), byte(place>>8)
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%d.blk", n+1)), append(first, head...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var dropped []uint64
	fails := map[uint64]bool{}
	w := warm{folder: folder, drop: func(_ context.Context, start uint64) bool {
		dropped = append(dropped, start)
		return !fails[start]
	}}
	enter := func(seqs ...uint64) {
		t.Helper()
		for _, seq := range seqs {
			if err := w.enter(t.Context(), seq); err != nil {
				t.Fatalf("%d: %v", seq, err)
			}
		}
	}
	enter(1, 199, 200, 350, 410, 500, 699, 700, 1000, 2000) // the last block is nobody's
	enter(50)
	if len(dropped) > 0 {
		t.Fatalf("dropped %v, there was room", dropped)
	}
	enter(850)
	fails[200] = true
	enter(950)
	if want := []uint64{100, 200, 300}; !slices.Equal(dropped, want) {
		t.Errorf("dropped %v, expected %v", dropped, want)
	}
}
