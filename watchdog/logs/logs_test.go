package logs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/watchdog/logs"
)

const bound = 1 << 20 // as the package documents it

// sink takes what it is given, waits where the test tells it to, and fails
// when the test says so.
type sink struct {
	mu     sync.Mutex
	got    bytes.Buffer
	writes int
	fail   error
	gate   chan struct{} // when not nil, one receive a write
}

func (s *sink) Write(p []byte) (int, error) {
	if s.gate != nil {
		<-s.gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	if s.fail != nil {
		return 0, s.fail
	}
	return s.got.Write(p)
}

func (s *sink) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.String()
}

func TestGathersAndWritesSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{}
		w := logs.New(s)
		defer func() { _ = w.Close() }()
		for i := range 100 {
			if n, err := fmt.Fprintf(w, "line %d\n", i); n == 0 || err != nil {
				t.Fatal(n, err)
			}
		}
		if s.text() != "" {
			t.Error("written on the path")
		}
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		if lines := strings.Count(s.text(), "\n"); lines != 100 || s.writes != 1 {
			t.Errorf("%d lines in %d writes", lines, s.writes)
		}
	})
}

func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{}
		w := logs.New(s)
		w.Flush()
		start := time.Now()
		_, _ = io.WriteString(w, "one\n")
		w.Flush()
		if s.text() != "one\n" || time.Since(start) > 0 {
			t.Errorf("%q after %v", s.text(), time.Since(start))
		}
		_, _ = io.WriteString(w, "two\n")
		if err := w.Close(); err != nil || s.text() != "one\ntwo\n" {
			t.Errorf("%v, %q", err, s.text())
		}
	})
}

func TestAfterClose(t *testing.T) {
	s := &sink{}
	w := logs.New(s)
	_, _ = io.WriteString(w, "last\n")
	for range 2 {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := io.WriteString(w, "late\n"); n != 0 || !errors.Is(err, os.ErrClosed) {
		t.Fatalf("Write after Close: %d, %v", n, err)
	}
	w.Flush()
	if s.text() != "last\n" {
		t.Fatalf("%q", s.text())
	}
}

// A slow sink: writers wait, nothing is lost, memory stays bounded.
func TestSlowSinkLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{gate: make(chan struct{})}
		w := logs.New(s)
		line := bytes.Repeat([]byte{'x'}, 1023)
		line = append(line, '\n')
		const lines = 5 * bound / 1024
		written := 0
		done := make(chan error)
		go func() {
			for range lines {
				if _, err := w.Write(line); err != nil {
					t.Error(err)
				}
				written++
			}
			done <- w.Close()
		}()
		time.Sleep(time.Minute)
		synctest.Wait()
		if held := written * 1024; held > 2*bound || held < bound {
			t.Errorf("%d bytes taken by a sink that takes none", held)
		}
		closed := false
		for !closed {
			select {
			case s.gate <- struct{}{}:
			case err := <-done:
				closed = true
				if err != nil {
					t.Error(err)
				}
			}
		}
		if want := bytes.Repeat(line, lines); !bytes.Equal(s.got.Bytes(), want) {
			t.Errorf("%d bytes came, want %d", s.got.Len(), len(want))
		}
	})
}

// Close lets a Write that waits for room end, and that one is complete.
func TestCloseWaitsForWriter(t *testing.T) {
	s := &sink{gate: make(chan struct{})}
	w := logs.New(s)
	huge := bytes.Repeat([]byte("0123456789abcde\n"), 5*bound/16)
	wrote := make(chan error, 1)
	go func() {
		_, err := w.Write(huge)
		wrote <- err
	}()
	s.gate <- struct{}{} // the first of five pieces: it has its turn, and waits
	closed := make(chan error)
	go func() { closed <- w.Close() }()
	for {
		select {
		case s.gate <- struct{}{}:
			continue
		case err := <-closed:
			if err != nil || s.text() != string(huge) {
				t.Fatalf("Close() = %v with %d of %d bytes out", err, len(s.text()), len(huge))
			}
		}
		break
	}
	if err := <-wrote; err != nil {
		t.Errorf("Write() = %v", err)
	}
}

// Many write lines of every length, some beyond the bound, to a real pipe:
// each comes out whole, and each writer's in its order.
func TestNeverMixes(t *testing.T) {
	r, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	w := logs.New(pipe)
	const writers, each = 8, 150
	var all sync.WaitGroup
	for id := range writers {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(id), 3))
			for i := range each {
				size := rng.IntN(300)
				switch rng.IntN(60) {
				case 0:
					size = bound + rng.IntN(bound)
				case 1, 2, 3:
					size = rng.IntN(bound)
				}
				line := fmt.Appendf(nil, "%d %d %d %s\n", id, i, size, bytes.Repeat([]byte{byte('a' + id)}, size))
				if n, err := w.Write(line); n != len(line) || err != nil {
					t.Errorf("Write() = %d, %v", n, err)
				}
			}
		})
	}
	go func() {
		all.Wait()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		_ = pipe.Close()
	}()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	var next [writers]int
	lines := bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
	for _, line := range lines {
		var id, i, size int
		if _, err := fmt.Sscanf(string(line[:min(len(line), 40)]), "%d %d %d ", &id, &i, &size); err != nil {
			t.Fatalf("%v in a line of %d bytes", err, len(line))
		}
		head := len(fmt.Sprintf("%d %d %d ", id, i, size))
		if i != next[id] || len(line) != head+size || bytes.Count(line[head:], []byte{byte('a' + id)}) != size {
			t.Fatalf("line %d of writer %d, want %d; %d bytes, want %d", i, id, next[id], len(line), head+size)
		}
		next[id]++
	}
	if len(lines) != writers*each {
		t.Fatalf("%d lines, want %d", len(lines), writers*each)
	}
}

// A sink that fails stops nobody: its lines are lost, the error is told, and
// when it works again so does the log.
func TestFailingSink(t *testing.T) {
	full := errors.New("no space left")
	s := &sink{fail: full}
	w := logs.New(s)
	line := bytes.Repeat([]byte{'x'}, 1000)
	for range 3000 { // far more than is held for a sink that works
		if n, err := w.Write(line); n != len(line) || err != nil {
			t.Fatalf("Write() = %d, %v", n, err)
		}
	}
	w.Flush()
	if !errors.Is(w.Err(), full) {
		t.Fatalf("Err() = %v", w.Err())
	}
	s.mu.Lock()
	s.fail = nil
	s.mu.Unlock()
	_, _ = io.WriteString(w, "again\n")
	if err := w.Close(); !errors.Is(err, full) {
		t.Errorf("Close() = %v, want the first error", err)
	}
	if s.text() != "again\n" {
		t.Errorf("%q", s.text())
	}
}

type short struct{}

func (short) Write(p []byte) (int, error) { return len(p) / 2, nil }

func TestShortWrite(t *testing.T) {
	w := logs.New(short{})
	_, _ = io.WriteString(w, "half of it\n")
	if err := w.Close(); !errors.Is(err, io.ErrShortWrite) {
		t.Fatalf("Close() = %v", err)
	}
}

// The reader of the pipe is gone, as when a log collector dies.
func TestBrokenPipe(t *testing.T) {
	r, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	defer func() { _ = pipe.Close() }()
	w := logs.New(pipe)
	for range 100 {
		if _, err := w.Write(make([]byte, 100<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); !errors.Is(err, syscall.EPIPE) {
		t.Fatalf("Close() = %v, want a broken pipe", err)
	}
}

// Nothing of a closed Writer runs on; the bubble of TestFlush says the same of
// one that was never used.
func TestLeavesNoGoroutine(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 50 {
		w := logs.New(io.Discard)
		_, _ = io.WriteString(w, "line\n")
		_ = w.Close()
	}
	for end := time.Now().Add(20 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

func TestAllocatesNothing(t *testing.T) {
	w := logs.New(io.Discard)
	defer func() { _ = w.Close() }()
	line := bytes.Repeat([]byte{'x'}, 100)
	_, _ = w.Write(bytes.Repeat(line, 5000)) // both buffers have grown
	w.Flush()
	_, _ = w.Write(bytes.Repeat(line, 5000))
	w.Flush()
	if n := testing.AllocsPerRun(5000, func() { _, _ = w.Write(line) }); n != 0 {
		t.Errorf("%g allocations per Write", n)
	}
}

// FuzzWrites cuts a text into writes anyhow: what comes out is the text.
func FuzzWrites(f *testing.F) {
	f.Add([]byte("one\ntwo\n"), uint64(1))
	f.Add(bytes.Repeat([]byte("0123456789\n"), 20_000), uint64(2))
	f.Fuzz(func(t *testing.T, text []byte, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, seed))
		s := &sink{}
		w := logs.New(s)
		for rest := text; len(rest) > 0; {
			n := 1 + rng.IntN(len(rest))
			if m, err := w.Write(rest[:n]); m != n || err != nil {
				t.Fatal(m, err)
			}
			rest = rest[n:]
			switch rng.IntN(4) {
			case 0:
				w.Flush()
			case 1:
				_, _ = w.Write(nil)
			}
		}
		if err := w.Close(); err != nil || s.text() != string(text) {
			t.Fatalf("%v, %d of %d bytes", err, s.got.Len(), len(text))
		}
	})
}

func openFile(b *testing.B) *os.File {
	file, err := os.Create(filepath.Join(b.TempDir(), "log"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = file.Close() })
	return file
}
