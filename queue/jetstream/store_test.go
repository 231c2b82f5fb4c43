package jetstream

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/queue"
)

var lane = queue.LaneOf(function.Ref{Namespace: "default", Name: "echo"})

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(&lines{t: t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// lines is a writer for a log that may outlive its test.
type lines struct {
	mu   sync.Mutex
	t    testing.TB
	once sync.Once
	over bool
}

func (l *lines) Write(p []byte) (int, error) {
	l.once.Do(func() {
		l.t.Cleanup(func() { l.mu.Lock(); l.over = true; l.mu.Unlock() })
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = testLog(t)
	}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func openInside(t testing.TB) *Store { return open(t, Config{Dir: t.TempDir()}) }

func put(t testing.TB, s *Store, lane queue.Lane, data string) uint64 {
	t.Helper()
	seq, _, err := s.Put(t.Context(), lane, []byte(data), "")
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

func take(t testing.TB, s *Store, lane queue.Lane, n int) []queue.Delivery {
	t.Helper()
	all, err := s.Fetch(t.Context(), lane, n, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func ack(t testing.TB, all ...queue.Delivery) {
	t.Helper()
	for _, d := range all {
		if err := d.Ack(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func backlog(t testing.TB, s *Store, lane queue.Lane) queue.Backlog {
	t.Helper()
	all, err := s.Backlogs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all[lane]
}

// until waits for a condition that has no signal.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func newID(seq uint64) queue.ID {
	id := queue.ID{Seq: seq}
	rand.Read(id.Nonce[:])
	return id
}

func TestItemsComeAsTheyWerePut(t *testing.T) {
	s := openInside(t)
	first := put(t, s, lane, "one")
	put(t, s, lane, "two")
	put(t, s, queue.Callbacks, "elsewhere")
	if b := backlog(t, s, lane); b != (queue.Backlog{Items: 2}) {
		t.Fatalf("backlog %+v", b)
	}
	item, err := s.Get(t.Context(), first)
	if err != nil || string(item.Data) != "one" || item.Lane != lane || item.Seq != first || time.Since(item.Stored) > time.Minute {
		t.Fatalf("get: %+v, %v", item, err)
	}
	all := take(t, s, lane, 10)
	if len(all) != 2 || string(all[0].Item().Data) != "one" || string(all[1].Item().Data) != "two" ||
		all[0].Times() != 1 || all[0].Item().Seq != first || all[0].Item().Lane != lane {
		t.Fatalf("fetched %v", all)
	}
	if b := backlog(t, s, lane); b != (queue.Backlog{Items: 2, Delivered: 2}) {
		t.Fatalf("backlog %+v", b)
	}
	ack(t, all[0])
	if _, err := s.Get(t.Context(), first); !errors.Is(err, queue.ErrNotFound) {
		t.Fatalf("got what was acknowledged: %v", err)
	}
	if oldest, err := s.Oldest(t.Context(), lane); err != nil || string(oldest.Data) != "two" {
		t.Fatalf("oldest %+v, %v", oldest, err)
	}
	ack(t, all[1])
	if _, err := s.Oldest(t.Context(), lane); !errors.Is(err, queue.ErrNotFound) {
		t.Fatalf("oldest of nothing: %v", err)
	}
	if b := backlog(t, s, lane); b != (queue.Backlog{}) {
		t.Fatalf("backlog %+v", b)
	}
}

func TestAKeyIsStoredOnce(t *testing.T) {
	s := openInside(t)
	put1, dup1, err1 := s.Put(t.Context(), lane, []byte("a"), "key")
	put2, dup2, err2 := s.Put(t.Context(), lane, []byte("b"), "key")
	put3, dup3, err3 := s.Put(t.Context(), queue.Callbacks, []byte("c"), "key")
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	if dup1 || !dup2 || dup3 || put1 != put2 || put3 == put1 {
		t.Fatalf("places %d %v, %d %v, %d %v", put1, dup1, put2, dup2, put3, dup3)
	}
	if _, dup, err := s.Put(t.Context(), lane, nil, "a key\r\nwith: any\x00thing"); err != nil || dup {
		t.Fatal(dup, err)
	}
}

func TestRetryPutsOffAndAWaitingFetchGetsIt(t *testing.T) {
	s := openInside(t)
	put(t, s, lane, "x")
	d := take(t, s, lane, 1)[0]
	if err := d.Retry(t.Context(), 700*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	due := time.Now().Add(600 * time.Millisecond)
	if b := backlog(t, s, lane); b != (queue.Backlog{Items: 1, Delivered: 1}) {
		t.Fatalf("put off: %+v", b)
	}
	if all, err := s.Fetch(t.Context(), lane, 1, 0); len(all) > 0 || err != nil {
		t.Fatalf("came at once: %v %v", all, err)
	}
	until(t, "it is due", func() bool { return backlog(t, s, lane) == queue.Backlog{Items: 1} })
	d = take(t, s, lane, 1)[0]
	if time.Now().Before(due) || d.Times() != 2 {
		t.Fatalf("came %v early, delivered %d times", time.Until(due), d.Times())
	}
	if err := d.Retry(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	d = take(t, s, lane, 1)[0]
	ack(t, d)
}

func TestALeaseEndsUnlessExtended(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir(), Lease: time.Second})
	put(t, s, lane, "kept")
	put(t, s, lane, "left")
	two := take(t, s, lane, 2)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		for pause(ctx, 200*time.Millisecond) {
			two[0].Extend()
		}
	}()
	again := take(t, s, lane, 2)
	if len(again) != 1 || string(again[0].Item().Data) != "left" || again[0].Times() != 2 {
		t.Fatalf("delivered again: %v", again)
	}
	ack(t, again...)
	ack(t, two[0])
}

func TestRemovedIsNotDeliveredAgain(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir(), Lease: time.Second})
	seq := put(t, s, lane, "x")
	take(t, s, lane, 1)
	if err := s.Remove(t.Context(), seq); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), seq); !errors.Is(err, queue.ErrNotFound) {
		t.Fatalf("removed twice: %v", err)
	}
	if all, err := s.Fetch(t.Context(), lane, 1, 2*time.Second); len(all) > 0 || err != nil {
		t.Fatalf("delivered again: %v %v", all, err)
	}
	if b := backlog(t, s, lane); b != (queue.Backlog{}) {
		t.Fatalf("backlog %+v", b)
	}
}

func TestAFetchThatLeavesKeepsNothing(t *testing.T) {
	s := openInside(t)
	for i := range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan int)
		go func() {
			all, _ := s.Fetch(ctx, lane, 1, 10*time.Second)
			for _, d := range all {
				d.Ack(t.Context())
			}
			left <- len(all)
		}()
		if i%2 == 0 {
			time.Sleep(time.Duration(i) * 200 * time.Microsecond)
		}
		go cancel()
		put(t, s, lane, "x")
		if <-left == 0 {
			// Not after its lease of 15 s, but at once.
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			all, err := s.Fetch(ctx, lane, 1, 10*time.Second)
			cancel()
			if len(all) != 1 || err != nil {
				t.Fatalf("round %d: not given back: %v, %v", i, all, err)
			}
			ack(t, all...)
		}
	}
}

func TestManyFetchOneLane(t *testing.T) {
	s := openInside(t)
	const items = 300
	for i := range items {
		put(t, s, lane, fmt.Sprint(i))
	}
	var mu sync.Mutex
	seen := map[string]int{}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for {
				all, err := s.Fetch(t.Context(), lane, 7, 200*time.Millisecond)
				if err != nil {
					t.Error(err)
				}
				if len(all) == 0 {
					return
				}
				for _, d := range all {
					mu.Lock()
					seen[string(d.Item().Data)]++
					mu.Unlock()
					if err := d.Ack(t.Context()); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	group.Wait()
	if len(seen) != items {
		t.Fatalf("%d of %d items", len(seen), items)
	}
	for data, n := range seen {
		if n != 1 {
			t.Errorf("%s was delivered %d times", data, n)
		}
	}
}

func TestRecords(t *testing.T) {
	s := openInside(t)
	ctx := t.Context()
	id := newID(12345)
	if _, err := s.Load(ctx, id); !errors.Is(err, queue.ErrNotFound) {
		t.Fatal(err)
	}
	if _, err := s.Find(ctx, id.Nonce); !errors.Is(err, queue.ErrNotFound) {
		t.Fatal(err)
	}
	for _, text := range []string{"first", "second"} {
		if err := s.Save(ctx, id, []byte(text), time.Hour); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Load(ctx, id); err != nil || string(got) != text {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if found, err := s.Find(ctx, id.Nonce); found != id || err != nil {
		t.Fatal(found, err)
	}
	short := newID(7)
	if err := s.Save(ctx, short, []byte("x"), time.Millisecond); err != nil {
		t.Fatal(err)
	}
	until(t, "the record is forgotten", func() bool {
		_, err := s.Load(ctx, short)
		return errors.Is(err, queue.ErrNotFound)
	})
	for range 2 {
		if err := s.Forget(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Load(ctx, id); !errors.Is(err, queue.ErrNotFound) {
		t.Fatal(err)
	}
}

func TestOldRecordsGiveWay(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir(), MaxRecords: 3})
	var ids []queue.ID
	for i := range 5 {
		ids = append(ids, newID(uint64(i+1)))
		if err := s.Save(t.Context(), ids[i], []byte("x"), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	for i, id := range ids {
		if _, err := s.Load(t.Context(), id); errors.Is(err, queue.ErrNotFound) != (i < 2) {
			t.Errorf("record %d: %v", i, err)
		}
	}
}

func TestDeadLetters(t *testing.T) {
	s := openInside(t)
	ctx := t.Context()
	dotted := queue.Lane("call.default.echo.v2")
	ids := []queue.ID{newID(1), newID(2), newID(3), newID(4)}
	for i, lane := range []queue.Lane{lane, dotted, lane, queue.Callbacks} {
		for range 2 {
			if err := s.Bury(ctx, lane, ids[i], []byte{byte(i)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	all, err := s.Buried(ctx, "", 0, 10)
	if err != nil || len(all) != 4 || all[0].ID != ids[0] || all[3].Lane != queue.Callbacks || all[1].Lane != dotted {
		t.Fatalf("%+v, %v", all, err)
	}
	mine, err := s.Buried(ctx, lane, 0, 1)
	if err != nil || len(mine) != 1 || mine[0].ID != ids[0] {
		t.Fatalf("%+v, %v", mine, err)
	}
	mine, err = s.Buried(ctx, lane, mine[0].Seq, 10)
	if err != nil || len(mine) != 1 || mine[0].ID != ids[2] || !bytes.Equal(mine[0].Data, []byte{2}) {
		t.Fatalf("%+v, %v", mine, err)
	}
	letter, err := s.Letter(ctx, ids[1])
	if err != nil || letter.Lane != dotted || letter.ID != ids[1] {
		t.Fatalf("%+v, %v", letter, err)
	}
	if err := s.Unbury(ctx, ids[1]); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Letter(ctx, ids[1]); !errors.Is(err, queue.ErrNotFound) {
		t.Fatal(err)
	}
	if err := s.Unbury(ctx, ids[1]); !errors.Is(err, queue.ErrNotFound) {
		t.Fatal(err)
	}
}

func TestBoundsAreToldApart(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir(), MaxLane: 2, MaxBytes: 1 << 20, MaxData: 1 << 19})
	put(t, s, lane, "1")
	put(t, s, lane, "2")
	if _, _, err := s.Put(t.Context(), lane, nil, ""); !errors.Is(err, queue.ErrFull) {
		t.Fatalf("lane beyond its bound: %v", err)
	}
	put(t, s, "call.default.other", "another lane has room")
	if _, _, err := s.Put(t.Context(), lane, make([]byte, 1<<19+1), ""); !errors.Is(err, queue.ErrTooLarge) {
		t.Fatalf("too large: %v", err)
	}
	put(t, s, "call.default.large", strings.Repeat("x", 1<<19))
	if _, _, err := s.Put(t.Context(), "call.default.large", make([]byte, 1<<19), ""); !errors.Is(err, queue.ErrFull) {
		t.Fatalf("store beyond its bound: %v", err)
	}
	for _, bad := range []queue.Lane{"", "call.*.x", "call.>", "a b", "call..x", "call.a.", "a/b", "a\n"} {
		if _, _, err := s.Put(t.Context(), bad, nil, ""); err == nil {
			t.Errorf("put into %q", bad)
		}
		if _, err := s.Fetch(t.Context(), bad, 1, 0); err == nil {
			t.Errorf("fetched from %q", bad)
		}
	}
}

func TestNewsIsHeardHereToo(t *testing.T) {
	s := openInside(t)
	if err := s.Tell([]byte("news")); err != nil {
		t.Fatal(err)
	}
	select {
	case news := <-s.Heard():
		if string(news) != "news" {
			t.Fatalf("%q", news)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("not heard")
	}
}

func TestWhatIsThereOutlivesTheStore(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Dir: dir})
	secret, err := s.Secret(t.Context())
	if err != nil || secret == [32]byte{} {
		t.Fatal(secret, err)
	}
	seq := put(t, s, lane, "x")
	put(t, s, lane, "y")
	if d := take(t, s, lane, 1)[0]; d.Item().Seq != seq {
		t.Fatal(d.Item())
	} else if err := d.Retry(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, Config{Dir: dir})
	if again, err := s.Secret(t.Context()); err != nil || again != secret {
		t.Fatal(again, err)
	}
	all := take(t, s, lane, 2)
	if len(all) != 2 || all[0].Item().Seq != seq || string(all[1].Item().Data) != "y" {
		t.Fatalf("%v", all)
	}
	if b := backlog(t, s, lane); b != (queue.Backlog{Items: 2, Delivered: 2}) {
		t.Fatalf("%+v", b)
	}
}

func TestLeasesOfAnEarlierWeirEndAtOnce(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Dir: dir, Lease: time.Hour})
	put(t, s, lane, "x")
	put(t, s, lane, "put off")
	put(t, s, lane, "y")
	ds := take(t, s, lane, 2)
	if err := ds[1].Retry(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, Config{Dir: dir, Lease: time.Hour})
	if b := backlog(t, s, lane); b != (queue.Backlog{Items: 3}) {
		t.Fatalf("%+v", b)
	}
	for _, d := range take(t, s, lane, 3) {
		if d.Times() != 2 {
			t.Fatalf("%s: times %d", d.Item().Data, d.Times())
		}
		ack(t, d)
	}
	if b := backlog(t, s, lane); b.Items != 0 {
		t.Fatalf("%+v", b)
	}
}

func TestAnIdleLaneIsForgottenAndComesBack(t *testing.T) {
	s := openInside(t)
	consumers := func() (n int) {
		info, err := s.queue.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return info.State.Consumers
	}
	put(t, s, lane, "x")
	put(t, s, "call.default.busy", "y")
	ack(t, take(t, s, lane, 1)...)
	take(t, s, "call.default.busy", 1)
	now, empty := time.Now(), map[queue.Lane]time.Time{}
	for i, want := range []int{2, 2, 1} {
		if err := s.sweepOnce(t.Context(), now.Add(time.Duration(i)*idleLane*6/10), empty); err != nil {
			t.Fatal(err)
		}
		if got := consumers(); got != want {
			t.Fatalf("sweep %d: %d consumers, want %d", i, got, want)
		}
	}
	put(t, s, lane, "again")
	ack(t, take(t, s, lane, 1)...)
	// Another weir removes it.
	if err := s.queue.DeleteConsumer(t.Context(), consumerName(lane)); err != nil {
		t.Fatal(err)
	}
	put(t, s, lane, "and again")
	ack(t, take(t, s, lane, 1)...)
}
