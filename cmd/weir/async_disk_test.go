package main_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weir-run/weir/queue"
	"github.com/weir-run/weir/test/programtest"
)

// smallDisk is a file system of its own with size bytes.
func smallDisk(t testing.TB, size string) string {
	t.Helper()
	dir := t.TempDir()
	switch err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); {
	case errors.Is(err, unix.EPERM):
		t.Skip("it takes the right to mount")
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// taking submits calls until one is refused, and returns those that were
// taken. The refusal says that it is for now.
func (p *program) taking(path, body string, most int) (ids []string) {
	p.t.Helper()
	for len(ids) < most {
		id, a, err := p.submit(http.MethodPost, path, body)
		if err != nil {
			p.t.Fatal(err)
		}
		if id == "" {
			a.check(p.t, http.StatusServiceUnavailable)
			if a.Header.Get("Retry-After") == "" {
				p.t.Errorf("%s %q without Retry-After", a.Status, a.text)
			}
			return ids
		}
		ids = append(ids, id)
	}
	p.t.Fatalf("%d calls of %d bytes were taken, and the disk is not full", most, len(body))
	return nil
}

// takesAgain waits until a call is taken.
func (p *program) takesAgain(path, body string) (id string) {
	p.t.Helper()
	p.Until("calls are taken again", func() bool {
		id, _, _ = p.submit(http.MethodPost, path, body)
		return id != ""
	})
	return id
}

// processed checks that each call was, and that weir says so.
func (p *program) processed(ledger string, ids []string) {
	p.t.Helper()
	calls := p.allEnded(ids)
	done := byCall(readLedger(ledger), answered)
	for _, id := range ids {
		if c := calls[id]; c.State != queue.Succeeded || done[id] == 0 {
			p.t.Errorf("answered %d times: %+v", done[id], c)
		}
	}
}

// TestFullDisk: what is on a disk that fills up is processed, and with the room
// that this makes calls are taken again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk, ledger := smallDisk(t, "128m"), ledgerFile(t)
	p := local(t, "functions:\n"+recorder(t, "slow", ledger, []string{"max_inflight: 1"}, append([]string{`weir/max: "1"`}, soon...)),
		"WEIR_DATA_DIR="+filepath.Join(disk, "data"), "WEIR_ASYNC_RESULT_SIZE=1Ki")
	p.keeps()
	p.has("slow", 1)
	body := strings.Repeat("x", 512<<10)
	ids := p.taking("slow?ms=50", body, 400)
	if len(ids) < 20 {
		t.Errorf("full with %d calls of %d bytes", len(ids), len(body))
	}
	again := p.takesAgain("slow?ms=10", body)
	p.processed(ledger, append(ids, again))
	t.Logf("%d calls of 512 KiB on a disk of 128 MB, then 503", len(ids))

	// Somebody else fills what is left, to the last byte.
	ids = nil
	for range 40 {
		ids = append(ids, p.taken("slow?ms=100", "small"))
	}
	p.Until("one of them is processed", func() bool { c, _ := p.ask(ids[0]); return c.State == queue.Succeeded })
	filler := filepath.Join(disk, "filler")
	fill(t, filler)
	before := len(byCall(readLedger(ledger), answered))
	programtest.Eventually(t, "calls are refused", func() bool {
		id, a, err := p.submit(http.MethodPost, "slow?ms=10", "small")
		if id != "" {
			ids = append(ids, id)
		}
		return err == nil && id == "" && a.StatusCode == http.StatusServiceUnavailable
	})
	more := p.takenOrRefused(20)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	again = p.takesAgain("slow?ms=10", "small")
	ids = append(append(ids, more...), again)
	p.processed(ledger, ids)
	t.Logf("%d calls beside a disk that somebody filled; %d of all had been answered when it was full", len(ids), before)
}

// takenOrRefused sends n calls; none is lost in silence.
func (p *program) takenOrRefused(n int) (ids []string) {
	p.t.Helper()
	for range n {
		id, a, err := p.submit(http.MethodPost, "slow?ms=10", "small")
		switch {
		case err != nil:
			p.t.Error(err)
		case id != "":
			ids = append(ids, id)
		default:
			a.check(p.t, http.StatusServiceUnavailable)
		}
	}
	return ids
}

// fill writes a file until there is no room.
func fill(t testing.TB, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for part := make([]byte, 64<<10); ; {
		n, err := f.Write(part)
		if errors.Is(err, unix.ENOSPC) && len(part) > 1 {
			part = part[:len(part)/2]
			continue
		}
		if errors.Is(err, unix.ENOSPC) {
			return
		}
		if err != nil || n == 0 {
			t.Fatal(err)
		}
	}
}
