package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	folder = "../../docs/backpressure"
	page   = "../../docs/BACKPRESSURE.md"
)

// made is the content of what is drawn, by path.
func made(t *testing.T) map[string][]byte {
	t.Helper()
	drawing, err := draw(folder)
	if err != nil {
		t.Fatal(err)
	}
	files, err := drawing.Files(folder, page)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestDrawn: what is checked in was drawn from the data beside it.
func TestDrawn(t *testing.T) {
	for path, want := range made(t) {
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the data says: run make plots (%v)", filepath.Base(path), err)
		}
	}
}

// TestPictures: each is XML, shows the four systems, and the text of the
// document that names it.
func TestPictures(t *testing.T) {
	d, err := read(filepath.Join(folder, "sweep.csv"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for path, picture := range made(t) {
		if filepath.Ext(path) != ".svg" {
			continue
		}
		decoder, words := xml.NewDecoder(bytes.NewReader(picture)), ""
		for {
			token, err := decoder.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if chars, ok := token.(xml.CharData); ok {
				words += string(chars)
			}
		}
		for _, s := range d.systems[:drawn] {
			if strings.Count(words, s.name+"\n") != 1 {
				t.Errorf("%s: %q is not in its legend", path, s.name)
			}
		}
		if !bytes.Contains(text, []byte("backpressure/"+filepath.Base(path))) {
			t.Errorf("the document does not show %s", path)
		}
		if bytes.Contains(picture, []byte("NaN")) || bytes.Contains(picture, []byte("Inf")) {
			t.Errorf("%s has points that are nowhere", path)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	good, err := os.ReadFile(filepath.Join(folder, "sweep.csv"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty":          "",
		"comments alone": "# a\n",
		"no rows":        "system,load\n",
		"no column":      strings.Replace(string(good), "admitted p99", "p", 1),
		"no number":      string(good) + strings.Replace(lastLine(string(good)), ",0.", ",x.", 1),
		"short row":      string(good) + "a,b\n",
	} {
		path := filepath.Join(t.TempDir(), "sweep.csv")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := read(path); err == nil {
			t.Errorf("%s: read without an error", name)
		}
	}
}

func lastLine(text string) string {
	lines := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
	return lines[len(lines)-1] + "\n"
}
