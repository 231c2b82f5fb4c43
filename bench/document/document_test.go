package document

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const text = "a\n<!-- mine:begin -->\nold\n<!-- mine:end -->\nb\n"

func TestWrite(t *testing.T) {
	folder := t.TempDir()
	page := filepath.Join(folder, "page.md")
	if err := os.WriteFile(page, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	err := write(folder, page, func(from string) (Drawing, error) {
		return Drawing{Mark: "mine", Table: "of " + from + "\n", Pictures: map[string][]byte{"x.svg": []byte("<svg/>")}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{page: strings.Replace(text, "old", "of "+folder, 1), filepath.Join(folder, "x.svg"): "<svg/>"} {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}

// TestNothingHalf: where there is no place for the table no file is written.
func TestNothingHalf(t *testing.T) {
	for _, bad := range []string{"", "<!-- mine:begin -->\n", "<!-- mine:end -->\n", strings.ReplaceAll(text, "mine", "other")} {
		folder := t.TempDir()
		page := filepath.Join(folder, "page.md")
		if err := os.WriteFile(page, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		err := write(folder, page, func(string) (Drawing, error) {
			return Drawing{Mark: "mine", Table: "new\n", Pictures: map[string][]byte{"x.svg": nil}}, nil
		})
		if files, _ := os.ReadDir(folder); !errors.Is(err, errNoMarks) || len(files) != 1 {
			t.Errorf("%q: %v, %v", bad, err, files)
		}
	}
}
