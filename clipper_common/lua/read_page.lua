-- Reads some of the records of one collection.
-- ARGV: the name of the collection, and a cursor as of SCAN. Answers the next cursor, which after the last page is 0,
-- and what was found.
local collection
for _, one in ipairs(layout.configuration) do
  if one.name == ARGV[1] then collection = one end
end
local keys, cursor = page_of(collection, ARGV[2], PAGE_RECORDS)
return {cursor, read(collection, keys)}
