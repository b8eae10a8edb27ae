-- The commands of the layout in which each kind of record has a database of its own: the keys of the database are its
-- index. A script that goes to another database comes back to the one in which it began before it names a key of that.
local function enter(database) redis.call('SELECT', database) end
local function go_home() enter(layout.home) end
-- The keys of a collection. Goes to its database.
local function keys_of(collection)
  enter(collection.database)
  return redis.call('KEYS', collection.prefix .. '*')
end
-- About so many keys of a collection that has a database of its own, and the next cursor as of SCAN. Goes there.
local function page_of(collection, cursor, count)
  enter(collection.database)
  local page = redis.call('SCAN', cursor, 'COUNT', count)
  return page[2], page[1]
end
-- Which of some collections a place is in, if it is in one of them.
local function collection_at(collections, database, key)
  for _, collection in ipairs(collections) do
    if collection.database == database then return collection end
  end
end
-- Carries out a command that may make a key which the functions above are to find.
local function put(...) redis.call(...) end
