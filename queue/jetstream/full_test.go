package jetstream

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-run/weir/queue"
)

// smallDisk is a file system of 32 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("a file system of its own needs root: %s", out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("%s", out)
		}
	})
	return dir
}

func TestADiskThatFillsUpKeepsRoomForOutcomes(t *testing.T) {
	dir := smallDisk(t)
	s := open(t, Config{Dir: dir, Reserve: 8 << 20})
	data := strings.Repeat("x", 64<<10)
	stored := 0
	for ; ; stored++ {
		_, _, err := s.Put(t.Context(), lane, []byte(data), "")
		if errors.Is(err, queue.ErrFull) {
			t.Log(err)
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if stored < 200 {
		t.Fatalf("full after %d", stored)
	}
	for i := range stored {
		d := take(t, s, lane, 1)[0]
		if err := s.Save(t.Context(), newID(d.Item().Seq), []byte(data[:4<<10]), time.Hour); err != nil {
			t.Fatalf("outcome %d: %v", i, err)
		}
		ack(t, d)
	}
	until(t, "there is room again", func() bool {
		_, _, err := s.Put(t.Context(), lane, []byte(data), "")
		return err == nil
	})
}

func TestAFullDiskLosesNothingAndHeals(t *testing.T) {
	dir := smallDisk(t)
	s := open(t, Config{Dir: dir, Reserve: -1 << 40}) // none: the server meets the end
	pad := strings.Repeat("x", 64<<10)
	stored := map[string]bool{}
	try := func(text string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, _, err := s.Put(ctx, lane, []byte(text+" "+pad), "")
		if err == nil {
			stored[text] = true
		} else if !errors.Is(err, queue.ErrAway) && !errors.Is(err, queue.ErrFull) {
			t.Fatal(err)
		}
		return err
	}
	filler := filepath.Join(dir, "somebody else's")
	for round := range 3 {
		if err := os.WriteFile(filler, make([]byte, 8<<20), 0o600); err != nil {
			t.Log(err)
		}
		for i := 0; try(fmt.Sprintf("%d.%d", round, i)) == nil; i++ {
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		until(t, "it heals", func() bool { return try(fmt.Sprintf("healed %d", round)) == nil })
		for _, d := range take(t, s, lane, 40) {
			text, _, _ := strings.Cut(string(d.Item().Data), " x")
			delete(stored, text)
			ack(t, d)
		}
	}
	for len(stored) > 0 {
		all := take(t, s, lane, 100)
		if len(all) == 0 {
			t.Fatalf("lost: %v", stored)
		}
		for _, d := range all {
			text, _, _ := strings.Cut(string(d.Item().Data), " x")
			delete(stored, text)
		}
		ack(t, all...)
	}
}
