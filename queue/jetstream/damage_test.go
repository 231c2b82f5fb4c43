package jetstream

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const itemFiles = "jetstream/$G/streams/weir-queue"

func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := []byte{0}
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0xff
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func TestADamagedFolderIsAnError(t *testing.T) {
	const items, data = 1000, 10_000 // more than one file
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, msgs, stream, dir string)
		want   string // "": it opens, and nothing is missing
		fewer  int    // but for so many items
	}{
		{"nothing", func(*testing.T, string, string, string) {}, "", 0},
		{"a flipped bit", func(t *testing.T, msgs, _, _ string) { flip(t, msgs+"/1.blk", 4<<20) }, "1.blk is damaged", 0},
		{"a flipped bit in the last file", func(t *testing.T, msgs, _, _ string) { flip(t, msgs+"/2.blk", 1000) }, "2.blk is damaged", 0},
		{"a flipped bit in the last file of a killed server", func(t *testing.T, msgs, _, dir string) {
			os.WriteFile(filepath.Join(dir, marker), nil, 0o600)
			flip(t, msgs+"/2.blk", 1000)
		}, "2.blk is damaged", 0},
		{"a length", func(t *testing.T, msgs, _, _ string) { flip(t, msgs+"/1.blk", 2) }, "1.blk is damaged", 0},
		{"a short file", func(t *testing.T, msgs, _, _ string) { os.Truncate(msgs+"/1.blk", 4<<20) }, "1.blk is damaged", 0},
		{"a short last file", func(t *testing.T, msgs, _, _ string) { os.Truncate(msgs+"/2.blk", size(t, msgs+"/2.blk")-5) }, "2.blk is damaged", 0},
		{"a short last file of a killed server", func(t *testing.T, msgs, _, dir string) {
			os.WriteFile(filepath.Join(dir, marker), nil, 0o600)
			os.Truncate(msgs+"/2.blk", size(t, msgs+"/2.blk")-5)
		}, "", 1},
		{"the description of the stream", func(t *testing.T, _, stream, _ string) { flip(t, stream+"/meta.inf", 20) }, "cannot be read", 0},
		{"no description of the stream", func(t *testing.T, _, stream, _ string) { os.Remove(stream + "/meta.inf") }, "cannot be read", 0},
		{"the index", func(t *testing.T, msgs, _, _ string) { flip(t, msgs+"/index.db", 20) }, "", 0},
		{"no index", func(t *testing.T, msgs, _, _ string) { os.Remove(msgs + "/index.db") }, "", 0},
		{"the description of a consumer", func(t *testing.T, _, stream, _ string) {
			all, _ := filepath.Glob(stream + "/obs/*/meta.inf")
			flip(t, all[0], 3)
		}, "backup", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, Config{Dir: dir})
			for i := range items {
				put(t, s, lane, fmt.Sprintf("%0*d", data, i))
			}
			take(t, s, lane, 1)[0].Retry(t.Context(), 0)
			s.Close()
			stream := filepath.Join(dir, itemFiles)
			test.damage(t, stream+"/msgs", stream, dir)
			s, err := Open(t.Context(), Config{Dir: dir, Log: testLog(t)})
			if err == nil {
				defer s.Close()
			}
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "backup") {
					t.Fatalf("%v, want %s", err, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for n < items-test.fewer {
				all := take(t, s, lane, 100)
				if len(all) == 0 {
					break
				}
				ack(t, all...)
				n += len(all)
			}
			if b := backlog(t, s, lane); n != items-test.fewer || b.Items != 0 {
				t.Fatalf("%d items, and %d left", n, b.Items)
			}
		})
	}
}
