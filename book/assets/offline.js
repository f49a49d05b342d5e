// A page opened from a file may not fetch other files, which is how the search page gets the lines below each result.
// Without them the results are all there, and the browser reports no error.
if (window.location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}
